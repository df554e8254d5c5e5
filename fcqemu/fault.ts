/** What an API request is answered with when it fails, and Rust's words for system errors. */
import { debugText } from './json/scanner.ts';

export interface FaultOptions {
  status?: 400 | 413;
  /** what failed so that the process ends once the answer is sent */
  fatal?: 'Restore' | 'Resume';
  /** the error in Rust's debug form, without the kind of request it belongs to */
  debug?: string;
}

/** A refused request: becomes `{"fault_message": …}` with status 400, or 413 for the MMDS size limit. */
export class Fault extends Error {
  readonly status: 400 | 413;
  readonly fatal: 'Restore' | 'Resume' | undefined;
  readonly debug: string | undefined;

  constructor(message: string, options: FaultOptions = {}) {
    super(message);
    this.name = 'Fault';
    this.status = options.status ?? 400;
    this.fatal = options.fatal;
    this.debug = options.debug;
  }
}

/** A request that is refused before it is looked at what it asks for; the log shows it in Rust's debug form. */
export class RequestFault extends Fault {
  constructor(message: string, debug: string) {
    super(message, { debug });
    this.name = 'RequestFault';
  }
}

/** What Firecracker can do and fcqemu cannot; always ends in the same words so that clients can tell. */
export function unsupported(prefix: string, what: string): Fault {
  return new Fault(`${prefix}: ${what} not supported by fcqemu`);
}

/** Numbers, texts of the C library Firecracker is linked with (musl, which differs from glibc), Rust's kinds. */
const SYSTEM_ERRORS: Record<string, [number: number, text: string, kind: string]> = {
  EPERM: [1, 'Operation not permitted', 'PermissionDenied'],
  ENOENT: [2, 'No such file or directory', 'NotFound'],
  EIO: [5, 'I/O error', 'Uncategorized'],
  ENXIO: [6, 'No such device or address', 'Uncategorized'],
  ENOMEM: [12, 'Out of memory', 'OutOfMemory'],
  EACCES: [13, 'Permission denied', 'PermissionDenied'],
  EBUSY: [16, 'Resource busy', 'ResourceBusy'],
  EEXIST: [17, 'File exists', 'AlreadyExists'],
  ENODEV: [19, 'No such device', 'Uncategorized'],
  ENOTDIR: [20, 'Not a directory', 'NotADirectory'],
  EISDIR: [21, 'Is a directory', 'IsADirectory'],
  EINVAL: [22, 'Invalid argument', 'InvalidInput'],
  ENFILE: [23, 'Too many open files in system', 'Uncategorized'],
  EMFILE: [24, 'No file descriptors available', 'Uncategorized'],
  ETXTBSY: [26, 'Text file busy', 'ExecutableFileBusy'],
  EFBIG: [27, 'File too large', 'FileTooLarge'],
  ENOSPC: [28, 'No space left on device', 'StorageFull'],
  ESPIPE: [29, 'Invalid seek', 'NotSeekable'],
  EROFS: [30, 'Read-only file system', 'ReadOnlyFilesystem'],
  ENAMETOOLONG: [36, 'Filename too long', 'InvalidFilename'],
  ELOOP: [40, 'Symbolic link loop', 'FilesystemLoop'],
  EDQUOT: [122, 'Quota exceeded', 'QuotaExceeded'],
  EADDRINUSE: [98, 'Address in use', 'AddrInUse'],
};

/** What Rust's standard library refuses itself, before the system is asked. */
export class InvalidInput extends Error {}

/** Content that Rust's standard library refuses. */
export class InvalidData extends Error {}

/** A system error as Rust's `io::Error` prints it, e.g. `No such file or directory (os error 2)`. */
export function ioErrorText(error: unknown): string {
  const code = errorCode(error);
  const known = code === undefined ? undefined : SYSTEM_ERRORS[code];
  if (known) return `${known[1]} (os error ${known[0]})`;
  if (isNulInPath(error)) return 'file name contained an unexpected NUL byte';
  return error instanceof Error ? error.message : String(error);
}

/** The same in Rust's debug form, e.g. `Os { code: 2, kind: NotFound, message: "No such file or directory" }`. */
export function ioErrorDebug(error: unknown): string {
  const code = errorCode(error);
  const known = code === undefined ? undefined : SYSTEM_ERRORS[code];
  if (known) return `Os { code: ${known[0]}, kind: ${known[2]}, message: ${debugText(known[1])} }`;
  const isInput = error instanceof InvalidInput || isNulInPath(error);
  const kind = isInput ? 'InvalidInput' : error instanceof InvalidData ? 'InvalidData' : 'Other';
  return `Error { kind: ${kind}, message: ${debugText(ioErrorText(error))} }`;
}

/** Node refuses such a path before the system sees it, in words of its own. */
function isNulInPath(error: unknown): boolean {
  return errorCode(error) === 'ERR_INVALID_ARG_VALUE';
}

/** The `code` of a Node system error. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** An error such as Node's file system has. */
export function systemError(code: keyof typeof SYSTEM_ERRORS): Error {
  return Object.assign(new Error(code), { code });
}
