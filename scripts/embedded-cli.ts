/**
 * The first script of the single executable `banger`. V8's flags are set here and not by Node's arguments: a flag
 * makes V8 refuse the code cache of Node's own modules, and compiling them anew costs a fifth of a short command. So
 * those that every command needs are loaded first, then come the flags, and then the command line with a cache of its own.
 */
import 'node:child_process';
import 'node:events';
import 'node:fs';
import 'node:fs/promises';
import 'node:http';
import { createRequire } from 'node:module';
import 'node:net';
import 'node:os';
import 'node:path';
import { getAsset, getRawAsset } from 'node:sea';
import 'node:stream/promises';
import 'node:timers/promises';
import 'node:util';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';
import { V8_FLAGS } from './v8-flags.ts';

// their classes are loaded at the first use, which every command makes
void [process.stdout, process.stderr];
for (const flag of V8_FLAGS) setFlagsFromString(flag);

const script = new Script(getAsset('cli.js', 'utf8'), {
  filename: 'cli.js',
  cachedData: new Uint8Array(getRawAsset('cli.cache')),
});
const module = { exports: {} };
script.runInThisContext()(module.exports, createRequire(process.execPath), module, process.execPath, '/');
