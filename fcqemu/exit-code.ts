/** Firecracker's exit codes (`FcExitCode`) and what they mean to a caller. */
export const EXIT = {
  ok: 0,
  /** bad configuration file, API socket in use, failed snapshot load, QEMU died */
  generic: 1,
  unexpected: 2,
  /** SIGSYS */
  badSyscall: 148,
  /** SIGBUS */
  busError: 149,
  /** SIGSEGV */
  segmentationFault: 150,
  /** SIGXFSZ */
  fileSizeLimit: 151,
  /** an invalid `--level` */
  badConfiguration: 152,
  argumentParsing: 153,
  /** SIGXCPU */
  cpuTimeLimit: 154,
  /** SIGHUP */
  hangup: 156,
  /** SIGILL */
  illegalInstruction: 157,
} as const;

/** Ends the process with a code, its last log lines and a line on standard error; thrown, so that callers unwind. */
export class Exit extends Error {
  readonly code: number;
  /** the error in Rust's debug form, as it is printed to standard error */
  readonly debug: string;

  constructor(code: number, message: string, debug: string) {
    super(message);
    this.name = 'Exit';
    this.code = code;
    this.debug = debug;
  }
}

/** A Rust panic: Firecracker aborts (SIGABRT, 134 in a shell). */
export class Panic extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Panic';
  }
}

/** Rust's names of the codes a running machine ends with. */
export function exitCodeName(code: number): string {
  return code === EXIT.unexpected ? 'UnexpectedError' : 'GenericError';
}
