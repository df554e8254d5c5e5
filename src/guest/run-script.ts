/** A short script in a guest, with its exit status and what it said. */
import { finished } from 'node:stream/promises';
import { expiry } from '../system/abort.ts';
import { timerMs } from '../units.ts';
import type { GuestAgent } from './agent/agent.ts';
import type { SshConnection } from './ssh.ts';

export interface ScriptResult {
  /** null when a signal ended it or the connection was lost */
  exitCode: number | null;
  /** stdout and stderr in one text */
  output: string;
}

/** Kept of what a script says: enough for any message, whatever the guest sends. */
const MAX_OUTPUT_BYTES = 64 * 1024;

/** Administrators' programs, whatever the guest's shell looks through. */
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Where images that have no shell find one of banger's. */
const OWN_PATH = `${PATH}:/run/banger/bin`;

/** Runs a POSIX sh script; ends without an exit status after `timeoutMs`, when the script goes on by itself. */
export async function runScript(connection: SshConnection, script: string, timeoutMs: number): Promise<ScriptResult> {
  const channel = await connection.exec(`PATH=${PATH}; export PATH\n${script}`);
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, timerMs(timeoutMs));
  let exitCode: number | null = null;
  let output = '';
  const gather = (chunk: Buffer) => {
    if (output.length < MAX_OUTPUT_BYTES) output += chunk.toString('utf8');
  };
  channel.on('data', gather).stderr.on('data', gather);
  channel.on('error', () => {}); // 'close' follows
  // it repeats what 'exit' said, which may have come before anybody could listen
  channel.once('close', (code?: number | null) => {
    exitCode = code ?? null;
    resolve();
  });
  channel.end();
  await promise;
  clearTimeout(timer);
  return { exitCode, output: output.trim() };
}

/** The same through the guest's agent. @throws AgentError when it does not run it */
export async function runThroughAgent(agent: GuestAgent, script: string, timeoutMs: number): Promise<ScriptResult> {
  const channel = agent.exec({ argv: ['sh'], env: { PATH: OWN_PATH } });
  let output = '';
  const gather = (chunk: Buffer) => {
    if (output.length < MAX_OUTPUT_BYTES) output += chunk.toString('utf8');
  };
  channel.on('data', gather);
  channel.stderr.on('data', gather);
  channel.end(script);
  const said = Promise.all([channel, channel.stderr].map((stream) => finished(stream, { writable: false })));
  said.catch(() => {}); // `ended` says it
  const whole = channel.ended.then(async (exit) => {
    await said.catch(() => {});
    return exit;
  });
  const exit = await Promise.race([whole, expiry(timeoutMs)]);
  channel.destroy();
  return { exitCode: exit?.code ?? null, output: output.trim() };
}
