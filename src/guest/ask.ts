/** Short questions to a guest over an open connection: one command, its answer as text. */
import { BangerError } from '../errors.ts';
import type { SshConnection } from './ssh.ts';

export interface GuestAnswer {
  /** exit status; null when a signal ended the command */
  code: number | null;
  stdout: string;
}

/** Answers are a few lines; whatever a hostile guest adds is dropped. */
const MAX_ANSWER_BYTES = 64 * 1024;

/**
 * Runs `command` through the guest's shell.
 * @throws BangerError `timeout` when it has not ended within `timeoutMs`, `guest_failed` when it was not run
 */
export async function askGuest(connection: SshConnection, command: string, timeoutMs: number): Promise<GuestAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<GuestAnswer>();
  const timer = setTimeout(
    () => reject(new BangerError('timeout', `The guest did not answer within ${timeoutMs / 1000} s.`)),
    timeoutMs,
  );
  const asked = connection.exec(command).then((channel) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    channel.on('data', (chunk: Buffer) => {
      if (bytes < MAX_ANSWER_BYTES) chunks.push(chunk);
      bytes += chunk.length;
    });
    channel.stderr.resume();
    // 'close' repeats what 'exit' said, which may have come before anybody could listen
    channel.once('close', (code?: number | null) =>
      resolve({ code: code ?? null, stdout: Buffer.concat(chunks).toString('utf8') }),
    );
  });
  asked.catch(reject);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}
