/** The client's end of `exec`: this process's input, output, window size and signals as frames and back. */
import { constants } from 'node:os';
import type { Duplex } from 'node:stream';
import { createFrameDecoder, decodeCredit, encodeFrame, FRAME, type Frame } from '../../api/exec-frames.ts';
import type { Problem } from '../../api/operation.ts';
import { fromProblem } from '../../api/problem.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { plainText } from '../output/plain-text.ts';
import type { Output, Terminal } from '../terminal.ts';

/** What the command is told of instead of us; what ends us where its keys are the command's own. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
/** A command that ignores this many signals is left behind. */
const PATIENCE = 3;
/** The daemon refuses frames over 1 MiB; pipes and terminals deliver far less at once, files may not. */
const MAX_CHUNK_BYTES = 64 * 1024;

/** After these, or nothing, a terminal is at the beginning of a line. */
const END_OF_LINE = new Set([undefined, 0x0a, 0x0d]);

/** What of this process a command is tied to. */
export type ExecEnds = Pick<Terminal, 'stdin' | 'stdout' | 'stderr' | 'onSignal'>;

export interface ExecOptions {
  /** the command has a terminal, so keys go to it as they are */
  tty: boolean;
  /** whether it gets our input */
  input: boolean;
}

/**
 * Carries input and output until the command has ended.
 * @returns its exit status, 128 + number when a signal ended it
 * @throws BangerError what kept the command from running; `daemon_unreachable` when the connection broke
 */
export async function runExec(terminal: ExecEnds, connection: Duplex, options: ExecOptions): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  using cleanup = new DisposableStack();
  cleanup.defer(() => connection.destroy());
  const send = (...frame: Parameters<typeof encodeFrame>) =>
    connection.writable && connection.write(encodeFrame(...frame));

  const decode = createFrameDecoder();
  connection.on('data', (chunk: Buffer) => {
    try {
      for (const frame of decode(chunk)) receive(frame);
    } catch (error) {
      reject(broken(messageOf(error)));
    }
  });
  connection.once('error', (error) => reject(broken(error.message)));
  for (const event of ['end', 'close']) {
    connection.once(event, () => reject(broken('the daemon closed the connection')));
  }

  let grant = (_bytes: number) => {};
  if (options.input) grant = sendInput(terminal, connection, cleanup, options.tty);
  else send(FRAME.stdinEnd);
  if (options.tty) followTerminal(terminal, send, cleanup);
  // Ctrl-C is a key there; a signal comes from somebody who wants this process gone, and the command is hung up as it leaves
  if (options.tty && terminal.stdin.isTTY === true) leaveOnSignals(terminal, cleanup, resolve);
  else forwardSignals(terminal, send, cleanup, reject);
  return await promise;

  function settle(exit: { code: number | null; signal?: string | null }): void {
    const status = exitStatus(exit);
    if (status !== undefined) resolve(status);
    else reject(new BangerError('guest_failed', 'The VM went away while the command ran.', { hint: 'banger ls' }));
  }

  function receive(frame: Frame): void {
    switch (frame.type) {
      case FRAME.stdout:
        writeOutput(terminal.stdout, frame.payload, connection);
        break;
      case FRAME.stderr:
        writeOutput(terminal.stderr, frame.payload, connection);
        break;
      case FRAME.notice:
        terminal.stderr.write(`banger: ${plainText(frame.payload.toString('utf8'))}${options.tty ? '\r' : ''}\n`);
        break;
      case FRAME.credit:
        grant(decodeCredit(frame.payload));
        break;
      case FRAME.exit:
        settle(JSON.parse(frame.payload.toString('utf8')));
        break;
      case FRAME.error:
        reject(fromProblem(JSON.parse(frame.payload.toString('utf8')) as Problem));
        break;
    }
  }
}

type Send = (...frame: Parameters<typeof encodeFrame>) => void;

/**
 * Input goes as fast as the command takes it: the daemon grants how much. An earlier daemon grants nothing; a full connection
 * pauses it then, with signals behind it.
 * @returns hears what is granted
 */
function sendInput(
  { stdin }: ExecEnds,
  connection: Duplex,
  cleanup: DisposableStack,
  tty: boolean,
): (bytes: number) => void {
  let lastByte: number | undefined;
  let sentBytes = 0;
  let grantedBytes = Number.POSITIVE_INFINITY;
  const goOn = () => {
    if (sentBytes < grantedBytes && !connection.writableNeedDrain) stdin.resume();
  };
  const onData = (chunk: Buffer) => {
    lastByte = chunk.at(-1);
    for (let from = 0; from < chunk.length; from += MAX_CHUNK_BYTES) {
      connection.write(encodeFrame(FRAME.stdin, chunk.subarray(from, from + MAX_CHUNK_BYTES)));
    }
    sentBytes += chunk.length;
    if (sentBytes >= grantedBytes || connection.writableNeedDrain) stdin.pause();
  };
  const onEnd = () => {
    if (!connection.writable) return;
    // a terminal knows no end of input but this key, which must come at the beginning of a line
    if (tty) connection.write(encodeFrame(FRAME.stdin, Buffer.from(END_OF_LINE.has(lastByte) ? '\x04' : '\x04\x04')));
    // the end of the channel would hang it up instead
    else connection.write(encodeFrame(FRAME.stdinEnd));
  };
  stdin.on('data', onData).once('end', onEnd).once('error', onEnd);
  connection.on('drain', goOn);
  cleanup.defer(() => {
    stdin.off('data', onData).off('end', onEnd).off('error', onEnd);
    connection.off('drain', goOn);
    stdin.pause();
  });
  return (bytes) => {
    grantedBytes = (grantedBytes === Number.POSITIVE_INFINITY ? 0 : grantedBytes) + bytes;
    goOn();
  };
}

/** Output goes as fast as our reader takes it: a full pipe pauses the connection. */
function writeOutput(output: Output, payload: Buffer, connection: Duplex): void {
  if (output.write(payload) || connection.isPaused()) return;
  connection.pause();
  output.once('drain', () => connection.resume());
}

function followTerminal({ stdin, stdout }: ExecEnds, send: Send, cleanup: DisposableStack): void {
  if (stdin.isTTY === true && stdin.setRawMode) {
    stdin.setRawMode(true);
    cleanup.defer(() => stdin.setRawMode?.(false));
  }
  const onResize = () => send(FRAME.resize, JSON.stringify({ columns: stdout.columns, rows: stdout.rows }));
  stdout.on('resize', onResize);
  cleanup.defer(() => stdout.off('resize', onResize));
}

function leaveOnSignals(terminal: ExecEnds, cleanup: DisposableStack, leave: (status: number) => void): void {
  for (const signal of SIGNALS) {
    cleanup.use(terminal.onSignal(signal, () => leave(128 + constants.signals[signal])));
  }
}

function forwardSignals(
  terminal: ExecEnds,
  send: Send,
  cleanup: DisposableStack,
  leave: (error: BangerError) => void,
): void {
  let interrupts = 0;
  for (const signal of SIGNALS) {
    cleanup.use(
      terminal.onSignal(signal, () => {
        interrupts += 1;
        if (interrupts >= PATIENCE) leave(new BangerError('cancelled', `Left the command, which ignores ${signal}.`));
        else send(FRAME.signal, signal.slice('SIG'.length));
      }),
    );
  }
}

function exitStatus({ code, signal }: { code: number | null; signal?: string | null }): number | undefined {
  if (code !== null) return code;
  if (!signal) return undefined;
  const name = `SIG${signal.replace(/^SIG/, '')}`;
  const number = (constants.signals as Record<string, number | undefined>)[name];
  return number === undefined ? 255 : 128 + number;
}

function broken(why: string): BangerError {
  return new BangerError('daemon_unreachable', `The connection to the command broke: ${why}.`, {
    hint: 'banger daemon status',
  });
}
