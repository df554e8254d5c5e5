/** A command that runs in a guest, whichever way leads to it: through the guest's agent, or over SSH where there is none. */
import { randomUUID } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import type { ClientChannel } from 'ssh2';
import type { ExecRequest } from '../../api/vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { GuestAgent } from '../../guest/agent/agent.ts';
import { AgentError } from '../../guest/agent/errors.ts';
import type { AgentChannel } from '../../guest/agent/exec-channel.ts';
import {
  type BeginReader,
  createBeginReader,
  sessionCommand,
  sessionScript,
  signalSession,
} from '../../guest/command.ts';
import { runScript } from '../../guest/run-script.ts';
import { breachOf } from '../../guest/ssh.ts';
import { expiry, sleep } from '../../system/abort.ts';
import type { Host } from '../host.ts';

export interface CommandEnd {
  /** null when a signal ended it or the connection was lost */
  code: number | null;
  /** e.g. `SIGKILL` */
  signal: string | null;
  /** whether it was run without a shell, so that nothing says where its output begins */
  plain?: boolean;
}

export interface RunningCommand {
  stdin: Writable;
  stdout: Readable;
  stderr: Readable;
  /** what of standard output is the command's own */
  begin: BeginReader;
  resize(rows: number, columns: number): void;
  /** Signals its whole session, e.g. by `TERM`. */
  signal(name: string): void;
  /** Lets go of it. */
  close(): void;
  /** The same when it still runs: its session is told to end. */
  hangUp(): void;
  /**
   * Resolves when it has ended and nothing more comes.
   * @throws BangerError `guest_failed` when the guest did not run it, or broke the protocol it is held to
   */
  ended: Promise<CommandEnd>;
}

/** What a terminal has when the client does not say. */
const DEFAULT_TERMINAL = { columns: 80, rows: 24 };

/** What a command gets to say which process it is before a signal for it is given up. */
const BEGIN_LIMIT_MS = 10_000;
const BEGIN_POLL_MS = 50;

/** What finding and signalling a session over SSH may take. */
const SIGNAL_LIMIT_MS = 30_000;

/** One that has answered so lately need not be asked whether it is there. */
const HEARD_LATELY_MS = 1000;

/** An agent that does not answer in this time is done without: nothing was asked of it yet. */
const PING_LIMIT_MS = 3000;

/** What an agent gets to begin a command; a guest under load needs some seconds. */
const OPEN_LIMIT_MS = 60_000;

/**
 * Begins a command in a guest.
 * @throws BangerError `guest_failed` when it does not run it
 */
export async function beginCommand(host: Host, vm: VmRecord, request: ExecRequest): Promise<RunningCommand> {
  const agent = await answeringAgent(host, vm);
  return agent ? await beginThroughAgent(host, vm, agent, request) : await beginOverSsh(host, vm, request);
}

/** The agent, if it answers now: a command must not be begun twice, so it is not asked to begin one that it may begin later. */
async function answeringAgent(host: Host, vm: VmRecord): Promise<GuestAgent | undefined> {
  // one that is held does not answer, which is no fault of its agent
  const agent = vm.paused === null ? await host.agents.get(vm) : undefined;
  if (!agent?.hello.features.has('exec')) return undefined;
  try {
    if (agent.quietMs > HEARD_LATELY_MS) await agent.ping({ timeoutMs: PING_LIMIT_MS });
    return agent;
  } catch (error) {
    host.agents.failed(vm, error);
    return undefined;
  }
}

async function beginThroughAgent(
  host: Host,
  vm: VmRecord,
  agent: GuestAgent,
  request: ExecRequest,
): Promise<RunningCommand> {
  const token = randomUUID();
  const { script, operands, plain } = sessionScript(request, token, request.tty ?? false);
  // an earlier agent takes every field for text, and refuses one that is none
  const mayBePlain = agent.hello.features.has('plain');
  const how = request.tty ? { terminal: terminalOf(request) } : { plain: mayBePlain ? plain : undefined };
  const channel = agent.exec({ argv: operands, script, ...how });
  const begun = await Promise.race([channel.begun, expiry(OPEN_LIMIT_MS)]).catch((error) => {
    throw refused(vm, error);
  });
  if (begun === undefined) {
    channel.destroy();
    const silent = new AgentError('silent', `its agent did not begin it within ${OPEN_LIMIT_MS / 1000} s`);
    host.agents.failed(vm, silent);
    throw refused(vm, silent);
  }
  return {
    stdin: channel,
    stdout: channel,
    stderr: channel.stderr,
    begin: createBeginReader(token),
    resize: (rows, columns) => channel.resize(rows, columns),
    signal: (name) => channel.signal(name),
    close: () => void channel.destroy(),
    // its agent does the rest
    hangUp: () => void channel.destroy(),
    ended: endOf(host, vm, channel),
  };
}

async function endOf(host: Host, vm: VmRecord, channel: AgentChannel): Promise<CommandEnd> {
  try {
    return await channel.ended;
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    // as over SSH: how it ended is not known
    if (error.trouble === 'gone') return { code: null, signal: null };
    if (error.trouble === 'broken') host.agents.failed(vm, error);
    throw refused(vm, error);
  }
}

function refused({ name }: VmRecord, error: unknown): BangerError {
  return new BangerError('guest_failed', `${name} did not run the command: ${messageOf(error)}.`, {
    cause: error,
    hint: `See what the guest says: banger logs ${name}`,
  });
}

async function beginOverSsh(host: Host, vm: VmRecord, request: ExecRequest): Promise<RunningCommand> {
  const token = randomUUID();
  const begin = createBeginReader(token);
  const channel = await openChannel(host, vm, request, token);
  const signal = (name: string) => {
    signalBegun(host, vm, begin, name).catch((error) =>
      host.log.warn({ vm: vm.name, signal: name, error: messageOf(error) }, 'a signal did not reach its command'),
    );
  };
  return {
    stdin: channel,
    stdout: channel,
    stderr: channel.stderr,
    begin,
    resize: (rows, columns) => channel.setWindow(rows, columns, 0, 0),
    signal,
    close: () => channel.close(),
    hangUp() {
      signal('HUP');
      channel.close();
    },
    ended: closeOf(vm, channel),
  };
}

/** 'close' repeats what 'exit' said, which may have come before anybody could listen: a busy daemon reads answers in one go. */
function closeOf(vm: VmRecord, channel: ClientChannel): Promise<CommandEnd> {
  const { promise, resolve, reject } = Promise.withResolvers<CommandEnd>();
  channel.on('error', () => {}); // 'close' follows
  channel.once('close', (code?: number | null, signal?: string | null) => {
    const breach = breachOf(channel);
    if (breach === undefined) return resolve({ code: code ?? null, signal: signal ?? null });
    reject(
      new BangerError('guest_failed', `The SSH server of ${vm.name} ${breach}; the connection was closed.`, {
        hint: `See what the guest says: banger logs ${vm.name}`,
      }),
    );
  });
  promise.catch(() => {});
  return promise;
}

async function openChannel(host: Host, vm: VmRecord, request: ExecRequest, token: string): Promise<ClientChannel> {
  const command = sessionCommand(request, token, request.tty ?? false);
  const options = request.tty ? { pty: terminalOf(request) } : {};
  const connection = await host.guests.get(vm);
  try {
    return await connection.exec(command, options);
  } catch (error) {
    const extra = await host.guests.extra(vm, error);
    const channel = await extra.exec(command, options);
    channel.once('close', () => void extra[Symbol.asyncDispose]());
    return channel;
  }
}

function terminalOf({ columns, rows, term }: ExecRequest): { columns: number; rows: number; term: string } {
  return {
    columns: columns ?? DEFAULT_TERMINAL.columns,
    rows: rows ?? DEFAULT_TERMINAL.rows,
    term: term ?? 'xterm-256color',
  };
}

/** Signals the command and all it started, as a terminal would its session. */
async function signalBegun(host: Host, vm: VmRecord, begin: BeginReader, signal: string): Promise<void> {
  // it is asked to end while it begins: it says which process it is within a moment
  for (let waited = 0; begin.pid === undefined && waited < BEGIN_LIMIT_MS; waited += BEGIN_POLL_MS) {
    await sleep(BEGIN_POLL_MS);
  }
  if (begin.pid === undefined) return;
  const connection = await host.guests.get(vm);
  await runScript(connection, signalSession(begin.pid, signal), SIGNAL_LIMIT_MS);
}
