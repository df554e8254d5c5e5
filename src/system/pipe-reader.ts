/** Whether anybody still reads what is written to a pipe or socket, asked without writing to it. */
import { loadLibc } from './libc.ts';

/** Of poll.h, the same on every machine banger runs on: the other end of a pipe is closed, or of a socket. */
const POLLERR = 0x008;
const POLLHUP = 0x010;
const POLLFD_BYTES = 8;

/** Soon enough for a person who waits for a prompt. */
const LOOK_EVERY_MS = 500;

const SIGNATURES = { poll: { arguments: ['buffer', 'uint64', 'int32'], return: 'int32' } } as const;

/**
 * Calls back once when the reader of `fd` has left. Keeps no process alive. Where the C library cannot be asked, the next
 * write tells instead.
 */
export function watchReader(fd: number, onGone: () => void): Disposable {
  const timer = setInterval(async () => {
    const libc = await loadLibc(SIGNATURES);
    if (!libc) return clearInterval(timer);
    const asked = Buffer.alloc(POLLFD_BYTES);
    asked.writeInt32LE(fd, 0);
    if (libc.poll(asked, 1n, 0) <= 0 || (asked.readInt16LE(6) & (POLLERR | POLLHUP)) === 0) return;
    clearInterval(timer);
    onGone();
  }, LOOK_EVERY_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
