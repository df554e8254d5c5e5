#!/usr/bin/env node
/** The command line and the daemon in one program; here alone is touched what belongs to the process. */
import { writeSync } from 'node:fs';
import { main } from '../src/cli/main.ts';
import type { Terminal } from '../src/cli/terminal.ts';
import { environmentOfPrograms } from './environment.ts';
import { setProcessName } from './process-name.ts';

const terminal: Terminal = {
  // getters: making a stream costs milliseconds, and most commands do not read their input
  get stdin() {
    return process.stdin;
  },
  get stdout() {
    return untilReaderLeaves(process.stdout);
  },
  get stderr() {
    return untilReaderLeaves(process.stderr);
  },
  env: environmentOfPrograms(process.env),
  uid: process.geteuid?.() ?? 0,
  get cwd() {
    return process.cwd();
  },
  // the single executable has no file name of its own: it is the program
  self: import.meta.filename === undefined ? [process.execPath] : [process.execPath, import.meta.filename],
  onSignal(signal, handler) {
    process.on(signal, handler);
    return { [Symbol.dispose]: () => void process.off(signal, handler) };
  },
  endWithReader() {
    if (process.stdout.isTTY) return;
    forgetExperiments();
    void import('../src/system/pipe-reader.ts').then(({ watchReader }) => watchReader(1, () => process.exit(0)));
  },
  async runInteractive(argv, options) {
    const { runInteractive } = await import('../src/cli/shared/interactive.ts');
    return await runInteractive(argv, { ...terminal.env, ...options?.env }, terminal.onSignal, options?.output);
  },
  async runDaemon() {
    setProcessName('bangerd');
    // nothing is done by them, so whoever sends them by mistake shall not end all of it
    for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) terminal.onSignal(signal, () => {});
    forgetExperiments();
    const { runDaemon } = await import('../src/daemon/main.ts');
    const stop = new AbortController();
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) terminal.onSignal(signal, () => stop.abort());
    await runDaemon({ env: terminal.env, uid: terminal.uid, self: terminal.self, signal: stop.signal });
  },
};

let outputLost = false;

void start().then((status) => {
  process.exitCode = status;
  // an input nobody reads any more must not keep us here; what is written must get out first
  terminal.stdout.write('', (lost) => {
    if (lost) onLost(process.stdout, lost);
    terminal.stderr.write('', () => process.exit(outputLost ? 1 : status));
  });
});

/** Arguments reach this process as text: one that is none has lost bytes on its way, and nothing must be done with it. */
async function start(): Promise<number> {
  const argv = process.argv.slice(2);
  if (argv.some((word) => word.includes('\ufffd'))) {
    const { unreadableArgument } = await import('../src/cli/shared/raw-arguments.ts');
    const problem = await unreadableArgument();
    if (problem !== undefined) {
      terminal.stderr.write(problem);
      return 2;
    }
  }
  return await main(argv, terminal);
}

/** That Node calls a part of itself an experiment is nothing people could act on. */
function forgetExperiments(): void {
  process.removeAllListeners('warning');
  process.on('warning', ({ name, stack }) => name !== 'ExperimentalWarning' && process.stderr.write(`${stack}\n`));
}

/** Whoever writes hears of it when what was written before could not be. */
function untilReaderLeaves(output: NodeJS.WriteStream): NodeJS.WriteStream {
  if (output.listenerCount('error') === 0) output.on('error', (error) => onLost(output, error));
  return output;
}

/**
 * `banger ls | head`: who reads our output may leave before we are done, and that is no error. Output that is lost in
 * another way, on a full disk, is one.
 */
function onLost(output: NodeJS.WriteStream, error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(0);
  if (outputLost) return;
  outputLost = true;
  if (output === process.stdout) {
    try {
      // not through a stream, which would take until after the end
      writeSync(2, `banger: The output could not be written: ${error.message}. What is there is not complete.\n`);
    } catch {
      // the exit status is all that is left
    }
  }
  process.exit(1);
}
