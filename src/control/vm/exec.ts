/** Runs a command in a guest over its open SSH connection and ties it to a framed stream. */
import { randomUUID } from 'node:crypto';
import type { Duplex, Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { ClientChannel } from 'ssh2';
import { createFrameDecoder, encodeFrame, FRAME, type FrameType } from '../../api/exec-frames.ts';
import { toProblem } from '../../api/problem.ts';
import type { ExecRequest } from '../../api/vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { asBangerError, BangerError, messageOf } from '../../errors.ts';
import { type BeginReader, createBeginReader, sessionCommand, signalSession } from '../../guest/command.ts';
import { runScript } from '../../guest/run-script.ts';
import { breachOf } from '../../guest/ssh.ts';
import { sleep } from '../../system/abort.ts';
import type { Host } from '../host.ts';
import type { Resumer } from './awaken.ts';
import { awaitUsable } from './readiness.ts';

/** What a terminal has when the client does not say. */
const DEFAULT_TERMINAL = { columns: 80, rows: 24 };

/** What a command gets to say which process it is before a signal for it is given up. */
const BEGIN_LIMIT_MS = 10_000;
const BEGIN_POLL_MS = 50;

/** What finding and signalling a session may take. */
const SIGNAL_LIMIT_MS = 30_000;

/** What a client may send on; anything else is not passed to a guest's shell. */
const SIGNALS = new Set(['HUP', 'INT', 'QUIT', 'TERM', 'KILL', 'USR1', 'USR2']);

/**
 * Runs `request` in the guest and pumps frames until the command has ended; ends the stream. A failure before or
 * during the run goes to the client as an `error` frame.
 */
export async function execInVm(
  host: Host,
  life: Resumer,
  vm: VmRecord,
  request: ExecRequest,
  stream: Duplex,
): Promise<void> {
  // input may arrive while the channel opens; it is kept until there is somebody to give it to
  const input = bufferInput(stream);
  const gone = whenGone(stream);
  using _session = host.stores.sessions.begin(vm.id);
  let unfollow = () => {};
  try {
    const token = randomUUID();
    const begin = createBeginReader(token);
    const say = (text: string) => stream.writable && stream.write(encodeFrame(FRAME.notice, text));
    const channel = await openWhenUsable(host, life, vm.id, request, token, say, gone);
    unfollow = sayWhenPaused(host, vm.id, say);
    const signalCommand = (signal: string) => {
      signalBegun(host, vm, begin, signal).catch((error) =>
        host.log.warn({ vm: vm.name, signal, error: messageOf(error) }, 'a signal did not reach its command'),
      );
    };
    input.attach(channel, signalCommand);
    await pump(vm, channel, begin, stream, gone, () => signalCommand('HUP'));
  } catch (error) {
    if (!stream.destroyed) stream.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(asBangerError(error)))));
  } finally {
    unfollow();
  }
}

/** Its output stops without a word when its guest is held. */
function sayWhenPaused({ stores }: Pick<Host, 'stores'>, vmId: string, say: (text: string) => void): () => void {
  return stores.vms.onChange(({ before, after }) => {
    if (after?.id !== vmId || before === undefined || before.paused?.at === after.paused?.at) return;
    if (after.paused !== null) say(`${after.name} is paused, and the command with it: ${after.paused.why}`);
    else if (after.phase === 'running') say(`${after.name} goes on, and the command with it`);
  });
}

/** A guest that goes down to come up again takes the connection with it: the command then waits for its return. */
async function openWhenUsable(
  host: Host,
  life: Resumer,
  vmId: string,
  request: ExecRequest,
  token: string,
  say: (text: string) => void,
  gone: AbortSignal,
): Promise<ClientChannel> {
  for (;;) {
    const vm = await awaitUsable(host, life, vmId, request.until ?? 'ready', say, gone);
    const left = Promise.withResolvers<undefined>();
    const unsubscribe = host.stores.vms.onChange(({ before, after }) => {
      if ((after ?? before)?.id === vmId && (after?.phase !== 'running' || after.startedAt !== vm.startedAt))
        left.resolve(undefined);
    });
    const opening = openChannel(host, vm, request, token);
    try {
      const channel = await Promise.race([opening, left.promise]);
      if (channel) return channel;
      void opening.then(
        (late) => late.close(),
        () => {},
      );
    } finally {
      unsubscribe();
    }
  }
}

async function openChannel(host: Host, vm: VmRecord, request: ExecRequest, token: string): Promise<ClientChannel> {
  const command = sessionCommand(request, token, request.tty ?? false);
  const options = request.tty
    ? {
        pty: {
          columns: request.columns ?? DEFAULT_TERMINAL.columns,
          rows: request.rows ?? DEFAULT_TERMINAL.rows,
          term: request.term ?? 'xterm-256color',
        },
      }
    : {};
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

/** A client says "no more input" by a frame; one that closes its half of the connection has gone away. */
function whenGone(stream: Duplex): AbortSignal {
  const gone = new AbortController();
  for (const event of ['end', 'close']) stream.once(event, () => gone.abort());
  return gone.signal;
}

/** Output goes out as it comes, no faster than the client takes it; the exit frame is the last. */
function pump(
  vm: VmRecord,
  channel: ClientChannel,
  begin: BeginReader,
  stream: Duplex,
  gone: AbortSignal,
  hangUp: () => void,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const forward = (source: Readable, type: FrameType, read: (chunk: Buffer) => Buffer) => {
    source.on('data', (chunk: Buffer) => {
      const output = read(chunk);
      if (output.length === 0 || stream.write(encodeFrame(type, output))) return;
      source.pause();
      stream.once('drain', () => source.resume());
    });
    // a channel may be closed long before a slow client has taken what came through it
    return finished(source, { writable: false }).catch(() => {});
  };
  const output = Promise.all([
    forward(channel, FRAME.stdout, begin.push),
    forward(channel.stderr, FRAME.stderr, (chunk) => chunk),
  ]);

  channel.on('error', () => {}); // 'close' follows
  let ended = false;
  // 'close' repeats what 'exit' said, which may have come before anybody could listen: a busy daemon reads a guest's
  // answers in one go
  channel.once('close', async (code?: number | null, signal?: string | null) => {
    ended = true;
    await output;
    if (!stream.destroyed) {
      const rest = begin.end();
      if (rest.length > 0) stream.write(encodeFrame(FRAME.stdout, rest));
      const exit = { code: code ?? null, signal: signal ?? null };
      const breach = breachOf(channel);
      const neverBegan = exit.code !== null && begin.pid === undefined;
      if (breach !== undefined) stream.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(broken(vm, breach)))));
      else if (neverBegan) stream.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(notBegun(vm, exit.code)))));
      else stream.end(encodeFrame(FRAME.exit, JSON.stringify(exit)));
    }
    resolve();
  });
  const onGone = () => {
    // what a client started that has gone away must not run on unseen
    if (!ended) hangUp();
    stream.destroy();
    channel.close();
    resolve();
  };
  if (gone.aborted) onGone();
  else gone.addEventListener('abort', onGone, { once: true });
  return promise;
}

/** A guest that is held to SSH's limits, and was not. */
function broken(vm: VmRecord, breach: string): BangerError {
  return new BangerError('guest_failed', `The SSH server of ${vm.name} ${breach}; the connection was closed.`, {
    hint: `See what the guest says: banger logs ${vm.name}`,
  });
}

/** The login shell, or the start-up files it read, ended before the command. */
function notBegun(vm: VmRecord, code: number | null): BangerError {
  return new BangerError(
    'guest_failed',
    `${vm.name} did not run the command: the login shell ended with ${code} before it.`,
    { hint: `What it said stands above. Its login shell and start-up files: banger logs ${vm.name}` },
  );
}

interface BufferedInput {
  attach(channel: ClientChannel, signalCommand: (signal: string) => void): void;
}

/** Decodes client frames; pauses the client when the guest takes its input slowly. */
function bufferInput(stream: Duplex): BufferedInput {
  const decode = createFrameDecoder();
  const waiting: Buffer[] = [];
  let deliver: ((chunk: Buffer) => void) | undefined;
  stream.on('data', (chunk: Buffer) => {
    if (deliver) deliver(chunk);
    else waiting.push(chunk);
  });
  stream.on('error', () => {}); // 'close' follows
  stream.resume(); // whoever read the request line paused it
  return {
    attach(channel, signalCommand) {
      deliver = (chunk) => {
        try {
          for (const { type, payload } of decode(chunk)) apply(channel, stream, signalCommand, type, payload);
        } catch {
          stream.destroy(); // a peer that does not speak the protocol
        }
      };
      for (const chunk of waiting) deliver(chunk);
    },
  };
}

function apply(
  channel: ClientChannel,
  stream: Duplex,
  signalCommand: (signal: string) => void,
  type: number,
  payload: Buffer,
): void {
  if (type === FRAME.stdin) {
    if (!channel.writable || channel.write(payload)) return;
    stream.pause();
    channel.once('drain', () => stream.resume());
  } else if (type === FRAME.stdinEnd) {
    channel.end();
  } else if (type === FRAME.resize) {
    const { columns, rows } = JSON.parse(payload.toString('utf8')) as { columns: number; rows: number };
    channel.setWindow(rows, columns, 0, 0);
  } else if (type === FRAME.signal) {
    const signal = payload.toString('utf8');
    if (SIGNALS.has(signal)) signalCommand(signal);
  }
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
