/** What an API request is answered with when it fails, and Rust's words for system errors. */

/** A refused request: becomes `{"fault_message": …}` with status 400, or 413 for the MMDS size limit. */
export class Fault extends Error {
  readonly status: 400 | 413;
  /** the process ends with this exit code once the answer is sent */
  readonly fatalExitCode: number | undefined;

  constructor(message: string, options: { status?: 400 | 413; fatalExitCode?: number } = {}) {
    super(message);
    this.name = 'Fault';
    this.status = options.status ?? 400;
    this.fatalExitCode = options.fatalExitCode;
  }
}

/** What Firecracker can do and fcqemu cannot; always ends in the same words so that clients can tell. */
export function unsupported(prefix: string, what: string): Fault {
  return new Fault(`${prefix}: ${what} not supported by fcqemu`);
}

/** Error texts of the C library Firecracker is linked with (musl), which differ from glibc's for some codes. */
const SYSTEM_ERRORS: Record<string, [number: number, text: string]> = {
  EPERM: [1, 'Operation not permitted'],
  ENOENT: [2, 'No such file or directory'],
  EIO: [5, 'I/O error'],
  ENXIO: [6, 'No such device or address'],
  ENOMEM: [12, 'Out of memory'],
  EACCES: [13, 'Permission denied'],
  EBUSY: [16, 'Resource busy'],
  EEXIST: [17, 'File exists'],
  ENODEV: [19, 'No such device'],
  ENOTDIR: [20, 'Not a directory'],
  EISDIR: [21, 'Is a directory'],
  EINVAL: [22, 'Invalid argument'],
  ENFILE: [23, 'Too many open files in system'],
  EMFILE: [24, 'No file descriptors available'],
  ETXTBSY: [26, 'Text file busy'],
  EFBIG: [27, 'File too large'],
  ENOSPC: [28, 'No space left on device'],
  EROFS: [30, 'Read-only file system'],
  ENAMETOOLONG: [36, 'Filename too long'],
  ELOOP: [40, 'Symbolic link loop'],
  EADDRINUSE: [98, 'Address in use'],
};

/** A system error as Rust's `io::Error` prints it, e.g. `No such file or directory (os error 2)`. */
export function ioErrorText(error: unknown): string {
  const code = errorCode(error);
  const known = code === undefined ? undefined : SYSTEM_ERRORS[code];
  if (known) return `${known[1]} (os error ${known[0]})`;
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of a Node system error. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** An error with the text of `code`, for checks fcqemu makes itself. */
export function systemErrorText(code: keyof typeof SYSTEM_ERRORS): string {
  return ioErrorText(Object.assign(new Error(code), { code }));
}
