/** A VM's log files: the serial console and the VMM's own log; their ends, and following them. */
import { watch } from 'node:fs';
import { constants, type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { StringDecoder } from 'node:string_decoder';
import { systemCode } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import type { Runner } from '../system/runner.ts';

/** Longest part of a log that is read to find its last lines. */
const TAIL_BYTES = 256 * 1024;

/** Size from which a console log is cut while its VM runs: a guest can print for ever. */
const MAX_LOG_BYTES = 16 * 1024 * 1024;

/** Last lines of a text file without terminal control sequences; empty when there is no file. */
export async function lastLines(path: string, count: number): Promise<string[]> {
  if (count === 0) return [];
  const text = await readTail(path, TAIL_BYTES);
  const lines = stripControls(text).split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.slice(-count);
}

/** Text from the end of a file, at most `bytes` of it; empty when there is no file. */
export async function readTail(path: string, bytes: number): Promise<string> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    const start = Math.max(0, size - bytes);
    const buffer = Buffer.alloc(size - start);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    return buffer.subarray(0, bytesRead).toString('utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return '';
    throw error;
  }
}

/** Terminal control sequences and bare carriage returns, which a guest may print to confuse whoever reads its log. */
export function stripControls(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this removes
      .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_a-z]/g, '')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: see above
      .replace(/[\x00-\x08\x0b-\x1f\x7f]/g, '')
  );
}

/** Bytes read at once, and how long a file that grows all the time is left alone between two reads. */
const CHUNK_BYTES = 64 * 1024;
const BREATH_MS = 50;

/** Chunks of a growing file from `position` on, until `signal` is aborted. Survives the file being cut. */
export async function* followFile(path: string, position: number, signal: AbortSignal): AsyncGenerator<string> {
  const decoder = new StringDecoder('utf8');
  let offset = position;
  let quiet = false;
  while (!signal.aborted) {
    // watched before it is read: what is written in between is noticed
    const changed = quiet ? nextChange(path, signal) : undefined;
    const { chunk, size } = await readFrom(path, offset);
    if (size < offset) offset = 0;
    else if (chunk.length > 0) {
      quiet = false;
      offset += chunk.length;
      yield decoder.write(chunk);
      // a guest may print letter by letter: each of them must not cost a round
      if (chunk.length < CHUNK_BYTES) await sleep(BREATH_MS);
    } else if (changed) await changed;
    else quiet = true;
  }
}

/** The log of the run before. */
export function previousLog(path: string): string {
  return `${path}.previous`;
}

/** Starts a new log for a new run and keeps the one before it as `….previous`. */
export async function rotateLog(path: string): Promise<void> {
  try {
    if ((await stat(path)).size > 0) await rename(path, previousLog(path));
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
}

/** Cuts a log that outgrew its limit; its writer appends, so it goes on at the new end. */
export async function limitLog(path: string): Promise<boolean> {
  await using file = await openLog(path);
  const { size } = (await file?.stat()) ?? { size: 0 };
  if (!file || size <= MAX_LOG_BYTES) return false;
  const tail = await readAt(file, size - TAIL_BYTES, TAIL_BYTES);
  await file.truncate(0);
  await file.writeFile(tail);
  return true;
}

/**
 * Gives back the room of the old part of a log that takes too much. Its writer, a VMM, does not append, but goes on where it
 * was: the file keeps its size and gets a hole at its beginning, so nothing that is written meanwhile is lost.
 */
export async function freeOldLines(runner: Runner, path: string): Promise<boolean> {
  await using file = await openLog(path);
  const { size, blocks } = (await file?.stat()) ?? { size: 0, blocks: 0 };
  // what stat counts in, whatever the file system
  const old = size - TAIL_BYTES;
  if (!file || old <= 0 || blocks * 512 <= MAX_LOG_BYTES) return false;
  // the file that was opened, whatever has its name by now
  const opened = `/proc/${process.pid}/fd/${file.fd}`;
  try {
    await runner.run(['fallocate', '--punch-hole', '--offset', '0', '--length', String(old), opened]);
  } catch {
    await emptyBefore(file, old);
  }
  return true;
}

/** Where no holes can be made in a file; loses what is written in that moment. */
async function emptyBefore(file: FileHandle, position: number): Promise<void> {
  const { size } = await file.stat();
  const tail = await readAt(file, position, size - position);
  await file.truncate(0);
  for (let at = 0; at < tail.length; ) {
    at += (await file.write(tail, at, tail.length - at, position + at)).bytesWritten;
  }
}

/** No link: the user of a VM may make what it likes in its directory. Undefined where there is no such file. */
async function openLog(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ELOOP') return undefined;
    throw error;
  }
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}

export async function removeLog(path: string): Promise<void> {
  await rm(path, { force: true });
}

async function readFrom(path: string, offset: number): Promise<{ chunk: Buffer; size: number }> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.max(0, Math.min(size - offset, CHUNK_BYTES)));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, offset);
    return { chunk: buffer.subarray(0, bytesRead), size };
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return { chunk: Buffer.alloc(0), size: 0 };
    throw error;
  }
}

/** When a file is read again that does not exist yet or cannot be watched, and one whose watcher says nothing. */
const LOOK_AGAIN_MS = 1000;
const DISTRUST_MS = 300_000;

/** Resolves when the file changes, after a while even if nobody says so, or when aborted. */
function nextChange(path: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      watcher?.close();
      resolve();
    };
    let watcher: ReturnType<typeof watch> | undefined;
    try {
      watcher = watch(path, done);
      watcher.on('error', done);
    } catch {
      // no such file yet
    }
    const timer = setTimeout(done, watcher ? DISTRUST_MS : LOOK_AGAIN_MS);
    signal.addEventListener('abort', done, { once: true });
  });
}
