/** Errors as the API shows them (RFC 9457 problem details). */
import { BangerError, isErrorCode } from '../errors.ts';
import type { Problem } from './operation.ts';

export function toProblem(error: BangerError): Problem {
  return {
    code: error.code,
    message: error.message,
    ...(error.hint ? { hint: error.hint } : {}),
    ...(error.details ? { details: error.details } : {}),
    type: `urn:banger:error:${error.code}`,
    title: error.code.replaceAll('_', ' '),
    status: error.httpStatus,
  };
}

export function fromProblem(problem: Problem): BangerError {
  return new BangerError(isErrorCode(problem.code) ? problem.code : 'internal', problem.message, {
    ...(problem.hint ? { hint: problem.hint } : {}),
    ...(problem.details ? { details: problem.details } : {}),
  });
}
