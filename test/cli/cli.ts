/** Runs command lines in this process, with a daemon that is a table of functions. */
import { addAbortSignal, PassThrough, Readable, Writable } from 'node:stream';
import type { Answer, CallArgs, JsonRoute } from '../../src/api/addresses.ts';
import type { Event } from '../../src/api/event.ts';
import type { LeaseLine } from '../../src/api/lease.ts';
import type { Operation, OperationEvent } from '../../src/api/operation.ts';
import type { Snapshot } from '../../src/api/snapshot.ts';
import type { StatsFrame } from '../../src/api/stats.ts';
import type { Vm } from '../../src/api/vm.ts';
import { main } from '../../src/cli/main.ts';
import type { InteractiveOptions, Output, Terminal } from '../../src/cli/terminal.ts';
import type { Client, ClientOptions } from '../../src/client/client.ts';
import { BangerError } from '../../src/errors.ts';
import type { Argv } from '../../src/system/runner.ts';
import { VERSION } from '../../src/version.ts';

/** Answers by route; a route nobody scripted fails the command. */
export type Script = {
  [K in JsonRoute]?: (args: CallArgs<K>) => Answer<K> | Promise<Answer<K>>;
} & {
  logs?: (args: CallArgs<'logs'>) => Readable;
  /** events by operation id; a function may wait between them */
  events?: Record<string, OperationEvent[] | (() => AsyncIterable<OperationEvent>)>;
  exec?: Client['exec'];
  watchStats?: (args: CallArgs<'watchStats'>) => Iterable<StatsFrame> | AsyncIterable<StatsFrame>;
  watchEvents?: (args: CallArgs<'watchEvents'>) => Iterable<Event> | AsyncIterable<Event>;
  holdLease?: (args: CallArgs<'holdLease'>) => Iterable<LeaseLine> | AsyncIterable<LeaseLine>;
  /** no daemon runs, and none comes up */
  unreachable?: boolean;
  version?: string;
};

export interface CliOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** both outputs are terminals */
  terminal?: boolean;
  stdin?: Readable;
  /** gets what takes standard output */
  onStdout?: (stdout: Output) => void;
  /** exit status of a program that takes over the terminal; it sees the arguments */
  program?: (argv: Argv, options?: InteractiveOptions) => number | Promise<number>;
  runDaemon?: () => Promise<void>;
  /** gets the function that sends this command line a signal, once it listens for some */
  signals?: (send: (signal: NodeJS.Signals) => void) => void;
}

export interface CliResult {
  status: number;
  stdout: string;
  stderr: string;
}

export async function cli(
  argv: string | readonly string[],
  script: Script,
  options: CliOptions = {},
): Promise<CliResult> {
  const stdout = capture(options.terminal ?? false);
  const stderr = capture(options.terminal ?? false);
  options.onStdout?.(stdout.output);
  const handlers = new Map<NodeJS.Signals, Set<() => void>>();
  const send = (signal: NodeJS.Signals) => {
    for (const handler of handlers.get(signal) ?? []) handler();
  };
  const terminal: Terminal = {
    stdin: options.stdin ?? Readable.from([]),
    stdout: stdout.output,
    stderr: stderr.output,
    env: { HOME: '/home/someone', XDG_RUNTIME_DIR: '/run/user/1000', LANG: 'C.UTF-8', ...options.env },
    uid: 1000,
    cwd: options.cwd ?? '/home/someone/project',
    self: ['/usr/bin/banger'],
    onSignal(signal, handler) {
      const known = handlers.get(signal) ?? new Set();
      handlers.set(signal, known.add(handler));
      // once it listens for more than one signal the command is ready for all it wants to hear
      if (handlers.size === 2) options.signals?.(send);
      return { [Symbol.dispose]: () => void known.delete(handler) };
    },
    runInteractive: async (program, choice) => (await options.program?.(program, choice)) ?? 0,
    runDaemon: async () => await options.runDaemon?.(),
    createClient: (clientOptions) => scriptedClient(script, clientOptions),
  };
  const words = typeof argv === 'string' ? argv.split(' ').filter(Boolean) : argv;
  const status = await main(words, terminal);
  return { status, stdout: stdout.text(), stderr: stderr.text() };
}

function scriptedClient(script: Script, options: ClientOptions): Client {
  return {
    async call<K extends JsonRoute>(route: K, args: CallArgs<K>): Promise<Answer<K>> {
      if (script.unreachable) {
        throw new BangerError('daemon_unreachable', 'No daemon answers.', { hint: 'banger daemon start' });
      }
      options.onVersion?.(script.version ?? VERSION);
      const answer = script[route] as ((args: CallArgs<K>) => Answer<K> | Promise<Answer<K>>) | undefined;
      if (!answer) throw new Error(`no script for ${route}`);
      return await answer(carried(args));
    },
    async stream(route, args) {
      if (script.unreachable) throw new BangerError('daemon_unreachable', 'No daemon answers.');
      const { watchStats, watchEvents, holdLease } = script;
      if (route === 'holdLease' && holdLease) {
        return streamOf(holdLease(args as unknown as CallArgs<'holdLease'>), args.signal);
      }
      if (route === 'watchStats' && watchStats) {
        return streamOf(watchStats(args as unknown as CallArgs<'watchStats'>), args.signal);
      }
      if (route === 'watchEvents' && watchEvents) {
        return streamOf(watchEvents(args as unknown as CallArgs<'watchEvents'>), args.signal);
      }
      const { id = '' } = (args as unknown as { params: { id?: string } }).params;
      if (route === 'logs' && script.logs) return script.logs(carried(args as unknown as CallArgs<'logs'>));
      const events = script.events?.[id];
      if (!events) throw new Error(`no script for ${route} ${id}`);
      return Readable.from(ndjson(typeof events === 'function' ? events() : events));
    },
    async exec(name, request, signal) {
      if (!script.exec) throw new Error('no script for exec');
      return await script.exec(name, request, signal);
    },
  };
}

/** What of a call arrives at the daemon: as in JSON, what is undefined does not. */
function carried<T extends { signal?: AbortSignal }>({ signal: _, ...parts }: T): T {
  return JSON.parse(JSON.stringify(parts)) as T;
}

/** A stream that ends at once when it is called off, also while its source waits for ever. */
function streamOf(values: Iterable<unknown> | AsyncIterable<unknown>, signal: AbortSignal | undefined): Readable {
  const stream = new PassThrough();
  if (signal) addAbortSignal(signal, stream);
  const fill = async () => {
    for await (const line of ndjson(values)) stream.write(line);
    stream.end();
  };
  fill().catch((error) => stream.destroy(error));
  return stream;
}

async function* ndjson(events: Iterable<unknown> | AsyncIterable<unknown>): AsyncGenerator<Buffer> {
  for await (const event of events) yield Buffer.from(`${JSON.stringify(event)}\n`);
}

function capture(isTTY: boolean): { output: Output; text: () => string } {
  let text = '';
  const output: Output = new Writable({
    write(chunk, _encoding, done) {
      text += chunk;
      done();
    },
  });
  if (isTTY) Object.assign(output, { isTTY: true, columns: 80, rows: 24 });
  return { output, text: () => text };
}

export function vm(name: string, values: Partial<Vm> = {}): Vm {
  return {
    id: '0a1b2c3d',
    name,
    state: 'running',
    failure: null,
    problem: null,
    image: 'debian-bookworm',
    vcpus: 1,
    memoryMib: 1024,
    rootDiskBytes: 8 * 2 ** 30,
    workDiskMount: '/root',
    workDiskBytes: 8 * 2 ** 30,
    address: '172.30.0.2',
    mac: '06:00:ac:1e:00:02',
    nat: true,
    autostart: false,
    restartPolicy: 'never',
    idleSuspendMs: 0,
    awakeUntil: null,
    createdAt: '2026-01-02T03:04:05.000Z',
    startedAt: null,
    vmm: 'fcqemu',
    pid: 4711,
    ready: true,
    bootMs: 6200,
    readyMs: 9100,
    failedUnits: [],
    temporary: null,
    forkedFrom: null,
    suspended: null,
    snapshots: 0,
    health: null,
    ...values,
  };
}

export function snapshot(name: string, values: Partial<Snapshot> = {}): Snapshot {
  return {
    ...{ vm: 'web', name, id: '0a0a0a0a', createdAt: '2026-01-02T03:04:05.678Z' },
    ...{ automatic: false, memory: false, taken: 'at-rest', pauseMs: null, image: 'debian-bookworm' },
    ...{ rootDiskBytes: 8 * 2 ** 30, workDiskBytes: 0, allocatedBytes: 300 * 2 ** 20, directory: '/s/web/0a0a0a0a' },
    ...values,
  };
}

export function operation(values: Partial<Operation> = {}): Operation {
  return {
    id: 'op1',
    kind: 'vm.start',
    target: 'web',
    state: 'running',
    step: null,
    createdAt: '2026-01-02T03:04:05.000Z',
    finishedAt: null,
    error: null,
    ...values,
  };
}

/** The event that ends an operation. */
export function done(values: Partial<Operation> = {}): OperationEvent {
  return {
    type: 'done',
    operation: operation({ state: 'succeeded', finishedAt: '2026-01-02T03:04:06.500Z', ...values }),
  };
}

/** A bundle as the daemon lists it. */
export const bundle = {
  name: 'debian-bookworm',
  directory: '/b/debian-bookworm',
  arch: 'x86_64',
  kernelRelease: '6.1.0',
  createdAt: null,
  legacy: false,
  isDefault: true,
  problem: null,
  usedBy: ['web'],
};
