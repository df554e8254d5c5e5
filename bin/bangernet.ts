#!/usr/bin/env node
/** The network helper for users without root. */
import { BangerError } from '../src/errors.ts';
import { runHelper } from '../src/nethelper/main.ts';
import { setProcessName } from './process-name.ts';

// the executable is called what it was started as; from source that would be Node
if (import.meta.filename !== undefined) setProcessName('bangernet');
// that Node calls a part of itself an experiment is nothing people could act on
process.removeAllListeners('warning');
const stop = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
const log = (line: string) => void process.stderr.write(`${line}\n`);

runHelper({
  argv: process.argv.slice(2),
  env: process.env,
  pid: process.pid,
  signal: stop.signal,
  log,
  print: (text) => void process.stdout.write(text),
}).then(
  () => process.exit(0),
  (error) => {
    log(
      error instanceof BangerError ? `bangernet: ${error.message} ${error.hint ?? ''}` : String(error?.stack ?? error),
    );
    process.exit(error instanceof BangerError ? error.exitStatus : 1);
  },
);
