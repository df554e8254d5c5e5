/**
 * Runs the host tests, two files at a time: a guest that is emulated keeps one core busy, so one file alone would
 * leave the other idle. Emulated guests have time limits that a busy machine may miss, so the files that failed run
 * once more, one after the other, and that decides. Usage: node scripts/host-tests.ts FILE...
 */
import { relative, resolve } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { formatDuration } from '../src/units.ts';

/** More would have guests wait for a processor while the limits of their tests run. */
const FILES_AT_ONCE = 2;
/** For a file as a whole; tests have shorter limits of their own. */
const LIMIT_MS = 900_000;

const files = process.argv.slice(2).map((file) => resolve(file));
if (files.length === 0) {
  console.error('usage: node scripts/host-tests.ts FILE...');
  process.exitCode = 2;
} else {
  let failed = await runFiles(files, FILES_AT_ONCE);
  if (failed.length > 0) {
    console.log(`\n== once more, one after the other: ${failed.map(shown).join(' ')}\n`);
    failed = await runFiles(failed, 1);
  }
  // a test that failed at first has set another status
  process.exitCode = failed.length > 0 ? 1 : 0;
}

/** @returns the files in which a test failed */
async function runFiles(paths: string[], concurrency: number): Promise<string[]> {
  const failed = new Set<string>();
  const stream = run({ files: paths, concurrency, timeout: LIMIT_MS });
  stream.on('test:summary', ({ file, duration_ms: ms, success }) => {
    if (file === undefined) return;
    console.log(`== ${shown(file)} took ${formatDuration(ms)}`);
    if (!success) failed.add(file);
  });
  // a file that cannot be loaded, or whose process dies, has no summary of its own
  stream.on('test:fail', ({ file, name }) => failed.add(file ?? resolve(name)));
  for await (const text of stream.compose(spec)) process.stdout.write(text);
  return paths.filter((path) => failed.has(path));
}

function shown(path: string): string {
  return relative(process.cwd(), path);
}
