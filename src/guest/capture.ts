/** Short questions to a guest over an open connection; a guest answers what it likes, so time and size are limited. */

import { timerMs } from '../units.ts';
import type { SshConnection } from './ssh.ts';

export interface CaptureLimits {
  /** `ms` until the answer is given up */
  timeoutMs: number;
  /** answers that are longer are given up too */
  maxBytes: number;
}

/**
 * Runs a command of the guest's shell and returns what it printed.
 * @returns undefined when the guest refuses, fails, takes too long or says too much
 */
export async function captureFromGuest(
  connection: SshConnection,
  command: string,
  { timeoutMs, maxBytes }: CaptureLimits,
): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  let giveUp = () => resolve(undefined);
  const timer = setTimeout(() => giveUp(), timerMs(timeoutMs));
  connection.exec(command).then(
    (channel) => {
      const chunks: Buffer[] = [];
      let size = 0;
      giveUp = () => {
        resolve(undefined);
        // closing is asked of the guest; what it still sends is thrown away
        chunks.length = 0;
        channel.close();
      };
      channel.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > maxBytes) giveUp();
        else chunks.push(chunk);
      });
      channel.stderr.resume();
      channel.on('error', () => {}); // 'close' follows
      // also when the whole connection ends. 'exit' may have been told before anybody could listen: a guest's answers
      // that arrive together are taken apart in one go
      channel.once('close', (code?: number | null) => {
        resolve(code === 0 ? Buffer.concat(chunks).toString('utf8') : undefined);
      });
    },
    () => resolve(undefined),
  );
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}
