/** Runs a command in a guest and ties it to a framed stream. */
import type { Duplex, Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import {
  createFrameDecoder,
  encodeCredit,
  encodeFrame,
  FRAME,
  type Frame,
  type FrameType,
  INPUT_WINDOW_BYTES,
} from '../../api/exec-frames.ts';
import { toProblem } from '../../api/problem.ts';
import type { ExecRequest } from '../../api/vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { asBangerError, BangerError } from '../../errors.ts';
import type { Host } from '../host.ts';
import type { Resumer } from './awaken.ts';
import { awaitUsable } from './readiness.ts';
import { beginCommand, type CommandEnd, type RunningCommand } from './running-command.ts';

/** What a client may send on; anything else is not passed to a guest's shell. */
const SIGNALS = new Set(['HUP', 'INT', 'QUIT', 'TERM', 'KILL', 'USR1', 'USR2']);

/** Input of a client that does not wait for credit; it is read no further while more than this waits for its command. */
const MAX_INPUT_BYTES = 1024 * 1024;

/** Frames that are kept while a VM is not up yet; the client is read no further then. */
const MAX_EARLY_FRAMES = 10_000;

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
    const say = (text: string) => stream.writable && stream.write(encodeFrame(FRAME.notice, text));
    const command = await beginWhenUsable(host, life, vm.id, request, say, gone);
    unfollow = sayWhenPaused(host, vm.id, say);
    input.attach(command);
    await pump(vm, command, stream, gone);
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
async function beginWhenUsable(
  host: Host,
  life: Resumer,
  vmId: string,
  request: ExecRequest,
  say: (text: string) => void,
  gone: AbortSignal,
): Promise<RunningCommand> {
  for (;;) {
    const vm = await awaitUsable(host, life, vmId, request.until ?? 'ready', say, gone);
    const left = Promise.withResolvers<undefined>();
    const unsubscribe = host.stores.vms.onChange(({ before, after }) => {
      if ((after ?? before)?.id !== vmId) return;
      // one that is held for a fork or a snapshot goes on in a moment, and must not begin the command twice
      const isSame = after?.phase === 'running' || after?.phase === 'suspending';
      if (!isSame || after.startedAt !== vm.startedAt) left.resolve(undefined);
    });
    const beginning = beginCommand(host, vm, request);
    try {
      const command = await Promise.race([beginning, left.promise]);
      if (command) return command;
      void beginning.then(
        (late) => late.hangUp(),
        () => {},
      );
    } finally {
      unsubscribe();
    }
  }
}

/** A client says "no more input" by a frame; one that closes its half of the connection has gone away. */
function whenGone(stream: Duplex): AbortSignal {
  const gone = new AbortController();
  for (const event of ['end', 'close']) stream.once(event, () => gone.abort());
  return gone.signal;
}

/** Output goes out as it comes, no faster than the client takes it; the exit frame is the last. */
async function pump(vm: VmRecord, command: RunningCommand, stream: Duplex, gone: AbortSignal): Promise<void> {
  const forward = (source: Readable, type: FrameType, read: (chunk: Buffer) => Buffer) => {
    source.on('data', (chunk: Buffer) => {
      const output = read(chunk);
      if (output.length === 0 || stream.write(encodeFrame(type, output))) return;
      source.pause();
      stream.once('drain', () => source.resume());
    });
    // it may have ended long before a slow client has taken what it said
    return finished(source, { writable: false }).catch(() => {});
  };
  const output = Promise.all([
    forward(command.stdout, FRAME.stdout, command.begin.push),
    forward(command.stderr, FRAME.stderr, (chunk) => chunk),
  ]);
  const left = Promise.withResolvers<'left'>();
  const onGone = () => left.resolve('left');
  if (gone.aborted) onGone();
  else gone.addEventListener('abort', onGone, { once: true });

  let ended = false;
  const whole = command.ended
    .finally(() => {
      ended = true;
    })
    .then(
      async (end) => {
        await output;
        return () => sayEnd(vm, command, end, stream);
      },
      async (error) => {
        await output;
        return () => stream.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(asBangerError(error)))));
      },
    );
  const say = await Promise.race([whole, left.promise]);
  if (say !== 'left') {
    if (!stream.destroyed) say();
    return;
  }
  // what a client started that has gone away must not run on unseen
  if (ended) command.close();
  else command.hangUp();
  stream.destroy();
}

function sayEnd(vm: VmRecord, { begin }: RunningCommand, end: CommandEnd, stream: Duplex): void {
  const rest = begin.end();
  if (rest.length > 0) stream.write(encodeFrame(FRAME.stdout, rest));
  const { code, signal, plain } = end;
  const neverBegan = code !== null && begin.pid === undefined && !plain;
  if (neverBegan) stream.end(encodeFrame(FRAME.error, JSON.stringify(toProblem(notBegun(vm, code)))));
  else stream.end(encodeFrame(FRAME.exit, JSON.stringify({ code, signal })));
}

/** The login shell, or the start-up files it read, ended before the command. */
function notBegun(vm: VmRecord, code: number | null): BangerError {
  return new BangerError(
    'guest_failed',
    `${vm.name} did not run the command: the login shell ended with ${code} before it.`,
    { hint: `What it said stands above. Its login shell and start-up files: banger logs ${vm.name}` },
  );
}

/** What comes before there is a command is kept until there is one. */
function bufferInput(stream: Duplex): { attach(command: RunningCommand): void } {
  const decode = createFrameDecoder();
  const early: Frame[] = [];
  const flow = flowOfInput(stream);
  let command: RunningCommand | undefined;
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const frame of decode(chunk)) {
        if (frame.type === FRAME.stdin) flow.came(frame.payload.length);
        if (command) apply(command, frame, flow);
        else if (early.push(frame) > MAX_EARLY_FRAMES) stream.pause();
      }
    } catch {
      stream.destroy(); // a peer that does not speak the protocol
    }
  });
  stream.on('error', () => {}); // 'close' follows
  stream.resume(); // whoever read the request line paused it
  return {
    attach(begun) {
      command = begun;
      try {
        for (const frame of early.splice(0)) apply(begun, frame, flow);
        if (stream.isPaused()) stream.resume();
      } catch {
        stream.destroy();
      }
    },
  };
}

interface InputFlow {
  came(bytes: number): void;
  taken(bytes: number): void;
}

/**
 * Grants the client what the command has taken. One that does not wait for credit is not read while too much is on its way:
 * then its signals wait too.
 */
function flowOfInput(stream: Duplex): InputFlow {
  let underWay = 0;
  let toGrant = INPUT_WINDOW_BYTES;
  let greeted = false;
  const grant = () => {
    if (stream.writable) stream.write(encodeCredit(toGrant));
    toGrant = 0;
  };
  return {
    came(bytes) {
      underWay += bytes;
      if (!greeted) grant();
      greeted = true;
      if (underWay > MAX_INPUT_BYTES) stream.pause();
    },
    taken(bytes) {
      underWay -= bytes;
      toGrant += bytes;
      if (toGrant >= INPUT_WINDOW_BYTES / 4) grant();
      if (underWay <= INPUT_WINDOW_BYTES && stream.isPaused()) stream.resume();
    },
  };
}

function apply(command: RunningCommand, { type, payload }: Frame, flow: InputFlow): void {
  const { stdin } = command;
  if (type === FRAME.stdin) {
    if (stdin.writable) stdin.write(payload, () => flow.taken(payload.length));
    else flow.taken(payload.length);
  } else if (type === FRAME.stdinEnd) {
    stdin.end();
  } else if (type === FRAME.resize) {
    const { columns, rows } = JSON.parse(payload.toString('utf8')) as { columns: number; rows: number };
    command.resize(rows, columns);
  } else if (type === FRAME.signal) {
    const signal = payload.toString('utf8');
    if (SIGNALS.has(signal)) command.signal(signal);
  }
}
