#!/usr/bin/env node
/** The command line and the daemon in one program; here alone is touched what belongs to the process. */
import { main } from '../src/cli/main.ts';
import type { Host } from '../src/cli/terminal.ts';
import { environmentOfPrograms } from './environment.ts';
import { setProcessName } from './process-name.ts';

const host: Host = {
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
  async runInteractive(argv, options) {
    const { runInteractive } = await import('../src/cli/shared/interactive.ts');
    return await runInteractive(argv, host.env, host.onSignal, options?.output);
  },
  async runDaemon() {
    setProcessName('bangerd');
    // nothing is done by them, so whoever sends them by mistake shall not end all of it
    for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) host.onSignal(signal, () => {});
    // its log is for people: that Node calls a part of itself an experiment is nothing they could act on
    process.removeAllListeners('warning');
    process.on('warning', ({ name, stack }) => name !== 'ExperimentalWarning' && process.stderr.write(`${stack}\n`));
    const { runDaemon } = await import('../src/daemon/main.ts');
    const stop = new AbortController();
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) host.onSignal(signal, () => stop.abort());
    await runDaemon({ env: host.env, uid: host.uid, self: host.self, signal: stop.signal });
  },
};

void main(process.argv.slice(2), host).then((status) => {
  process.exitCode = status;
  // an input nobody reads any more must not keep us here; what is written must get out first
  host.stdout.write('', () => host.stderr.write('', () => process.exit()));
});

/** `banger ls | head`: who reads our output may leave before we are done, and that is no error. */
function untilReaderLeaves(output: NodeJS.WriteStream): NodeJS.WriteStream {
  if (output.listenerCount('error') === 0) {
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0);
      throw error;
    });
  }
  return output;
}
