/** What to do next after a failure that does not say so itself. */
import { BangerError, type ErrorCode } from '../../errors.ts';

/** By kind of failure; `TYPED` stands for the command as it was typed. Whoever ended something knows what comes next. */
const NEXT: Readonly<Record<ErrorCode, string | undefined>> = {
  invalid_input: 'banger TYPED --help',
  daemon_unreachable: 'banger daemon status',
  not_found: 'banger TYPED --help',
  conflict: 'banger ls   or what its state allows: banger TYPED --help',
  preflight_failed: 'banger doctor',
  host_unprepared: 'banger doctor',
  timeout: 'See whether something of this host is in the way: banger doctor',
  cancelled: undefined,
  command_failed: 'See whether something of this host is in the way: banger doctor',
  vmm_failed: 'See what the VMM and the guest wrote: banger logs NAME',
  guest_failed: 'See what the guest wrote: banger logs NAME',
  corrupt: 'Get the file again, or make it anew; what banger keeps is checked with: banger bundle verify',
  internal: 'This is a fault of banger. A report needs what is below, and: banger version',
};

/** The same failure, with a next command in any case but where somebody asked to stop. */
export function withNextCommand(error: BangerError, typed: string): BangerError {
  const next = NEXT[error.code];
  if (error.hint !== undefined || next === undefined || hasFixes(error)) return error;
  return new BangerError(error.code, error.message, {
    // what is printed of a bug is where it came from
    cause: error.code === 'internal' ? error.cause : error,
    hint: next.replace('TYPED ', typed === '' ? '' : `${typed} `),
    details: error.details,
  });
}

/** Failed checks name the command that mends each. */
function hasFixes({ details }: BangerError): boolean {
  const checks = details?.checks;
  return Array.isArray(checks) && checks.some((check) => typeof check?.fix === 'string');
}
