/**
 * Makes V8's code cache of a script: `node --hash-seed=1 scripts/code-cache.ts SCRIPT CACHE [warm]`. A process of its own, because what
 * is in a cache depends on the seed of the hashes of names: with a seed of chance the same sources would make another
 * executable each time. The seed is part of V8's flags, and a cache is only valid under the flags it was made with, so it is taken back
 * before the cache is written.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';
import { V8_FLAGS } from './v8-flags.ts';

const [source = '', cache = '', warm] = process.argv.slice(2);

for (const flag of [...V8_FLAGS, '--hash-seed=0']) setFlagsFromString(flag);
const script = new Script(readFileSync(source, 'utf8'), { filename: basename(source) });
// run once, it holds the functions that a start needs
if (warm === 'warm') {
  const module = { exports: {} };
  script.runInThisContext()(module.exports, createRequire(import.meta.url), module, '', '');
}
writeFileSync(cache, script.createCachedData());
