/**
 * Files, FIFOs and standard output that must never hold the VMM up: what cannot be written at once is lost
 * and counted, as in Firecracker.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { errorCode } from './fault.ts';

export interface Sink {
  /** Writes what fits. @returns how many bytes that were; the rest is lost */
  write(bytes: Buffer): number;
  close(): void;
}

/** Bytes a socket on standard output may lag behind before output is dropped. */
const SOCKET_BACKLOG = 64 * 1024;

/**
 * Opens a file or FIFO without blocking, creating it if missing. Neither truncates nor appends: writing
 * begins at offset 0, as Firecracker's does.
 * @throws the system error of open(2)
 */
export function openSink(path: string): Sink {
  // read access makes opening a FIFO succeed before its reader has come
  return descriptorSink(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NONBLOCK, 0o644), true);
}

/** Standard output, whatever it is. */
export function stdoutSink(): Sink {
  try {
    const stat = fstatSync(1);
    if (stat.isSocket()) return socketSink(new Socket({ fd: 1, readable: false, writable: true }));
    // a fresh file description is non-blocking for us alone, not for everyone who shares the terminal
    if (!stat.isFile())
      return descriptorSink(openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK), true);
  } catch {
    // closed, or not to be reopened: use it as it is
  }
  return descriptorSink(1, false);
}

function descriptorSink(fd: number, owned: boolean): Sink {
  let isBroken = false;
  return {
    write(bytes) {
      if (isBroken) return 0;
      try {
        return writeSync(fd, bytes);
      } catch (error) {
        // nobody will ever read it, and each further write would raise SIGPIPE, which is logged, perhaps right here
        isBroken = errorCode(error) === 'EPIPE';
        return 0;
      }
    },
    close() {
      if (owned) closeSync(fd);
    },
  };
}

function socketSink(socket: Socket): Sink {
  socket.on('error', () => {});
  socket.unref();
  return {
    write(bytes) {
      if (socket.destroyed || socket.writableLength > SOCKET_BACKLOG) return 0;
      socket.write(bytes);
      return bytes.length;
    },
    close() {},
  };
}
