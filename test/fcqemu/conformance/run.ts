/**
 * Runs sequences one after the other: `run.ts INPUT OUTPUT`, in a process of its own, because requests name files
 * relative to the working directory and taps of the network namespace.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { VERSION } from '../../../fcqemu/argv.ts';
import { makeFixtures } from './fixtures.ts';
import { Instance, InstancePanic } from './instance.ts';
import { endedWith, formatAnswer, type Request, type Sequence, type Step } from './sequences.ts';

export interface RunInput {
  sequences: Sequence[];
  /** further files by name */
  texts: Record<string, string>;
}

export interface RunOutput {
  answers: string[];
  log: string;
}

/** An answer takes milliseconds; one that does not come is a fault. */
const ANSWER_MS = 10_000;
/** How long nothing more may come after all that was expected, and after less. */
const QUIET_MS = 30;
const PATIENCE_MS = 500;
/** Time between looks at what came. */
const CHECK_MS = 10;

const [input = '', output = ''] = process.argv.slice(2);
const { sequences, texts } = JSON.parse(readFileSync(input, 'utf8')) as RunInput;
process.on('uncaughtException', (error) => {
  // a request that never ends is ended with its sequence
  if (error instanceof InstancePanic) return;
  console.error(error);
  process.exit(1);
});
const results: RunOutput[] = [];
for (const sequence of sequences) results.push(await runSequence(sequence));
writeFileSync(output, JSON.stringify(results));
process.exit(0);

async function runSequence(sequence: Sequence): Promise<RunOutput> {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'fcqemu-conformance-')));
  const scratch = join(directory, 'f');
  mkdirSync(scratch);
  process.chdir(scratch);
  makeFixtures(scratch, texts, JSON.stringify(sequence.steps).includes('fifo'));
  try {
    if (sequence.prelude) await runPrelude(scratch, sequence, sequence.prelude);
    return await runMain(scratch, sequence);
  } finally {
    process.chdir('/');
    rmSync(directory, { recursive: true, force: true });
  }
}

async function runPrelude(scratch: string, { remove = [], truncate = [], flip = [] }: Sequence, steps: Request[]) {
  const instance = new Instance(scratch, []);
  await instance.listen('s');
  for (const step of steps) {
    const answer = await exchange(step, instance);
    if (!answer.startsWith('204')) throw new Error(`${step.join(' ')}: ${answer}`);
  }
  await instance.close();
  for (const name of ['s', ...remove]) rmSync(name, { force: true });
  for (const [name, bytes] of truncate) truncateSync(name, bytes);
  for (const [name, at] of flip) {
    const content = readFileSync(name);
    const index = at < 0 ? content.length + at : at;
    content[index] = (content[index] ?? 0) ^ 0xff;
    writeFileSync(name, content);
  }
}

async function runMain(scratch: string, { options, steps, expected }: Sequence): Promise<RunOutput> {
  const instance = new Instance(scratch, options);
  await instance.listen('s');
  const answers: string[] = [];
  for (const [at, step] of steps.entries()) {
    answers.push(normalised(await look(step, instance, expected[at] ?? ''), scratch));
  }
  await instance.close();
  return { answers, log: normalised(instance.log, scratch) };
}

async function look(step: Step, instance: Instance, expected: string): Promise<string> {
  if (Array.isArray(step)) return await exchange(step, instance);
  if ('raw' in step) return await rawExchange(step.raw, expected.length);
  if ('file' in step) return existsSync(step.file) ? readFileSync(step.file, 'latin1') : '<none>';
  if ('signal' in step) throw new Error('signals are for processes');
  if ('exists' in step) return JSON.stringify(step.exists.map((name) => existsSync(name)));
  await delay(step.sleepMs);
  return '';
}

/** One request over a connection of its own. */
async function exchange([method, path, body]: Request, instance: Instance): Promise<string> {
  if (instance.ended !== undefined) return endedWith(instance.ended);
  const head = `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n`;
  const bytes = Buffer.from(body ?? '', 'latin1');
  const length = body === undefined ? '' : `Content-Type: application/json\r\nContent-Length: ${bytes.length}\r\n`;
  const request = Buffer.concat([Buffer.from(`${head}${length}\r\n`), bytes]);
  const answer = await transfer(request, (text) => isWhole(text) || isAborted(instance), ANSWER_MS);
  if (isAborted(instance)) return endedWith(instance.ended ?? 0);
  const [lines = '', text = ''] = answer.split('\r\n\r\n');
  return formatAnswer({
    status: Number(lines.split(' ')[1]),
    deprecated: lines.includes('\r\nDeprecation: true'),
    body: Buffer.from(text, 'latin1').toString('utf8'),
  });
}

/** Without an answer. */
function isAborted({ ended = 0 }: Instance): boolean {
  return ended < 0;
}

function isWhole(text: string): boolean {
  const end = text.indexOf('\r\n\r\n');
  if (end === -1) return false;
  const length = Number(/\r\nContent-Length: (\d+)/.exec(text.slice(0, end))?.[1] ?? 0);
  return text.length >= end + 4 + length;
}

/** Bytes, and all that comes back: as much as is expected, and then a while. */
async function rawExchange(raw: string, length: number): Promise<string> {
  let seen = { bytes: 0, at: performance.now() };
  return await transfer(
    Buffer.from(raw, 'latin1'),
    (text) => {
      if (text.length !== seen.bytes) seen = { bytes: text.length, at: performance.now() };
      return performance.now() - seen.at > (text.length >= length ? QUIET_MS : PATIENCE_MS);
    },
    ANSWER_MS,
  );
}

/** Sends bytes and collects what comes until that is enough. */
async function transfer(bytes: Buffer, isDone: (text: string) => boolean, limitMs: number): Promise<string> {
  const socket = createConnection('s');
  const { promise, resolve } = Promise.withResolvers<void>();
  const deadline = performance.now() + limitMs;
  let text = '';
  const check = () => {
    if (isDone(text) || performance.now() > deadline) resolve();
  };
  const timer = setInterval(check, CHECK_MS);
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
    check();
  });
  socket.on('error', () => resolve());
  socket.on('close', () => resolve());
  socket.write(bytes);
  await promise;
  clearInterval(timer);
  socket.destroy();
  return text;
}

function normalised(text: string, scratch: string): string {
  const named = text.replaceAll(scratch, '$D').replaceAll(VERSION, '$V');
  // the version makes a difference to lengths, the times to how much of a file is left
  const length = named.includes('$V') ? named.replace(/Content-Length: \d+/g, 'Content-Length: $L') : named;
  return length
    .replace(/\0+$/, '')
    .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+/g, '$T')
    .replace(/(took|duration:) \d+ us/g, '$1 N us');
}
