/** The one error type a user may see: what happened, to which thing, and the next command. */

/** Each failure's exit status for the command line and status for HTTP. */
const FAILURES = {
  /** a request, flag or name that can never work as written */
  invalid_input: { exit: 2, http: 400 },
  /** no daemon answers on the socket */
  daemon_unreachable: { exit: 3, http: 503 },
  /** the named thing does not exist */
  not_found: { exit: 4, http: 404 },
  /** the thing exists but its state forbids the request */
  conflict: { exit: 5, http: 409 },
  /** the host lacks something; `details.checks` lists every failed check */
  preflight_failed: { exit: 6, http: 412 },
  /** a single program, device or right is missing on the host */
  host_unprepared: { exit: 6, http: 412 },
  /** a limit ran out */
  timeout: { exit: 7, http: 504 },
  /** the person or client asked to stop */
  cancelled: { exit: 130, http: 499 },
  /** a program of the host ended with an error */
  command_failed: { exit: 1, http: 500 },
  /** the VMM refused, died or never answered */
  vmm_failed: { exit: 1, http: 502 },
  /** the guest booted but did not do what it was asked */
  guest_failed: { exit: 1, http: 502 },
  /** a file's content is not what it must be */
  corrupt: { exit: 1, http: 500 },
  /** a bug in banger */
  internal: { exit: 1, http: 500 },
} as const;

export type ErrorCode = keyof typeof FAILURES;

export interface BangerErrorOptions {
  /** the next command or action, as a full sentence or a command line */
  hint?: string | undefined;
  /** the lower-level error that led here */
  cause?: unknown;
  /** machine-readable facts for `--json` and API clients */
  details?: Record<string, unknown> | undefined;
}

export class BangerError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, message: string, options: BangerErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'BangerError';
    this.code = code;
    this.hint = options.hint;
    this.details = options.details;
  }

  /** The same failure in other words: what is not given stays, details come together, and this one is the cause. */
  reworded(message: string, { hint, details }: Pick<BangerErrorOptions, 'hint' | 'details'> = {}): BangerError {
    return new BangerError(this.code, message, {
      cause: this,
      hint: hint ?? this.hint,
      details: details || this.details ? { ...this.details, ...details } : undefined,
    });
  }

  get exitStatus(): number {
    return FAILURES[this.code].exit;
  }

  get httpStatus(): number {
    return FAILURES[this.code].http;
  }
}

export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(FAILURES, code);
}

/** Any thrown value as a BangerError; what is not one already is a full disk, or a bug and becomes `internal`. */
export function asBangerError(error: unknown): BangerError {
  if (error instanceof BangerError) return error;
  if (NO_ROOM.includes(systemCode(error) ?? '')) return noRoom(error as NodeJS.ErrnoException);
  const message = error instanceof Error ? error.message : String(error);
  return new BangerError('internal', message, { cause: error });
}

/** A full file system, and a full quota. */
const NO_ROOM = ['ENOSPC', 'EDQUOT'];

function noRoom(error: NodeJS.ErrnoException): BangerError {
  const path = typeof error.path === 'string' ? error.path : undefined;
  const message = path === undefined ? 'A file could not be written' : `${path} could not be written`;
  return new BangerError('host_unprepared', `${message}: there is no room on the disk.`, {
    cause: error,
    hint: `See what is full: df -h   Make room with: banger gc   banger trash empty   banger image prune`,
    ...(path === undefined ? {} : { details: { path } }),
  });
}

/** The `code` of a Node system error (`ENOENT`, `EACCES`, …), or undefined. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** The message of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
