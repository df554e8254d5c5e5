/**
 * Builds the bundle that host tests boot, unless it is there and up to date, and prints where it is; with `--templates` also what
 * lets most of their VMs begin without a boot.
 * Usage: node scripts/test-bundle.ts [--templates] DIRECTORY
 */
import { parseArgs } from 'node:util';
import { messageOf } from '../src/errors.ts';
import { makeWarmStart } from '../test/support/make-warm-start.ts';
import { openDevHome } from './dev-home.ts';
import { banger, type CommandOptions, requireBuild } from './transcript.ts';

const LIMIT_MS = 1_800_000;

const { values, positionals } = parseArgs({ allowPositionals: true, options: { templates: { type: 'boolean' } } });
await main(positionals[0]);

async function main(directory: string | undefined): Promise<void> {
  if (directory === undefined) {
    console.error('usage: node scripts/test-bundle.ts [--templates] DIRECTORY');
    process.exitCode = 2;
    return;
  }
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => stop.abort(new Error('Interrupted; the bundle is as it was.')));
  }
  try {
    requireBuild();
    const { env, bundle } = await openDevHome(directory);
    const quietly: CommandOptions = { env, limitMs: LIMIT_MS, output: 'silent' };
    // a daemon of an older build would build an older bundle
    await banger(['daemon', 'stop'], quietly);
    try {
      await banger(['bundle', 'build', '--output', bundle], { env, limitMs: LIMIT_MS, signal: stop.signal });
    } finally {
      await banger(['daemon', 'stop'], quietly);
    }
    if (values.templates && !stop.signal.aborted) await makeWarmStart(bundle);
    console.log(bundle);
  } catch (error) {
    process.exitCode = stop.signal.aborted ? 130 : 1;
    console.error(`test-bundle: ${messageOf(error)}`);
  }
}
