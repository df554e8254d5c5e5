/** Files fetched from the web, whole or not at all as far as the caller renames them. */
import { createWriteStream } from 'node:fs';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { BangerError, messageOf } from '../errors.ts';

export interface DownloadOptions {
  /** more bytes than this are an error */
  limitBytes: number;
  /** wall-clock limit in `ms` */
  timeoutMs: number;
}

/**
 * Fetches a file into one that must not exist; what is there after a failure is the caller's to remove.
 * @throws BangerError `not_found` when the server has no such file
 * @throws BangerError `host_unprepared` when it cannot be reached, breaks off or sends too much
 */
export async function download(url: string, path: string, { limitBytes, timeoutMs }: DownloadOptions): Promise<void> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(timeoutMs) });
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      throw refused(url, response.status);
    }
    let left = limitBytes;
    const limit = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        left -= chunk.length;
        if (left < 0) done(new Error(`it is larger than ${limitBytes} bytes`));
        else done(null, chunk);
      },
    });
    await pipeline(Readable.fromWeb(response.body), limit, createWriteStream(path, { flags: 'wx', mode: 0o600 }));
  } catch (error) {
    if (error instanceof BangerError) throw error;
    // fetch itself only says that it failed
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    throw new BangerError('host_unprepared', `${url} cannot be fetched: ${messageOf(cause)}.`, {
      cause: error,
      hint: `See whether this host reaches it: curl -I ${url}`,
    });
  }
}

function refused(url: string, status: number): BangerError {
  return status === 404 || status === 410
    ? new BangerError('not_found', `There is no ${url}.`, { hint: 'See where it is looked for: banger config show' })
    : new BangerError('host_unprepared', `${url} cannot be fetched: the server answered with status ${status}.`, {
        hint: `Try it by hand: curl -I ${url}`,
      });
}
