/** Errors as the API shows them (RFC 9457 problem details), made by the daemon and read by its clients. */
import { BangerError, isErrorCode } from '../errors.ts';
import type { Problem } from './operation.ts';

export function toProblem(error: BangerError): Problem {
  return {
    code: error.code,
    message: error.message,
    hint: error.hint,
    details: error.details,
    type: `urn:banger:error:${error.code}`,
    title: error.code.replaceAll('_', ' '),
    status: error.httpStatus,
  };
}

/** The error a problem describes, as if it had been thrown here; a code of a newer daemon becomes `internal`. */
export function fromProblem({ code, message, hint, details }: ProblemFacts): BangerError {
  return new BangerError(isErrorCode(code) ? code : 'internal', message, { hint, details });
}

type ProblemFacts = Pick<Problem, 'code' | 'message' | 'hint' | 'details'>;

/** @returns undefined when the text is no problem: something else listens there */
export function parseProblem(text: string): Problem | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null) return undefined;
    return 'code' in value && 'message' in value && typeof value.message === 'string' ? (value as Problem) : undefined;
  } catch {
    return undefined;
  }
}
