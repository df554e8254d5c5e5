/**
 * Command lines about copies, run by a user who is not root, whom no mode of a directory keeps out. Takes `{ lines, guest, here }`
 * as JSON, and prints how each ended. The guest is a directory of this machine.
 */
import { duplexPair } from 'node:stream';
import '../../src/cli/commands/vm/cp.ts'; // what is loaded late may lie where only root reads
import '../../src/cli/commands/vm/run.ts';
import '../../src/cli/shared/exec-session.ts';
import '../../src/system/runner.ts';
import { type CliResult, cli, done, operation, type Script, vm } from './cli.ts';
import { runIn } from './local-guest.ts';

/** User and group of a host that nothing belongs to. */
const NOBODY = 65_534;

const { lines, guest, here } = JSON.parse(process.argv[2] ?? '') as { lines: string[][]; guest: string; here: string };
if (process.getuid?.() === 0) {
  process.setgroups?.([]);
  process.setgid?.(NOBODY);
  process.setuid?.(NOBODY);
}
const script: Script = {
  runVm: () => operation(),
  events: { op1: [done({ result: { ...vm('web'), created: false, started: false } })] },
  exec: async (_name, { argv, cwd }) => {
    const [client, daemon] = duplexPair();
    runIn(cwd ?? guest, [...argv], daemon);
    return client;
  },
};
const ended: CliResult[] = [];
for (const words of lines) ended.push(await cli(words, script, { cwd: here, env: { PATH: process.env.PATH ?? '' } }));
process.stdout.write(JSON.stringify(ended));
