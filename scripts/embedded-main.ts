/**
 * The first script of the executable: finds out which program it is, and runs that. V8's flags are set here and not
 * by Node's arguments: a flag makes V8 refuse the code cache of Node's own modules, and compiling them anew costs a fifth
 * of a short command. So those that the program needs in any case are loaded first, then come the flags, and then the
 * program with a cache of its own.
 */
import { setFlagsFromString } from 'node:v8';
import { setProcessName } from '../bin/process-name.ts';
import { runAsset } from './assets.ts';
import { findProgram, type Program } from './program-name.ts';
import { V8_FLAGS } from './v8-flags.ts';

const MODULES: Record<Program, readonly string[]> = {
  banger: [
    'child_process',
    'events',
    'fs',
    'fs/promises',
    'http',
    'net',
    'os',
    'path',
    'stream/promises',
    'timers/promises',
    'util',
  ],
  bangernet: ['child_process', 'events', 'fs', 'fs/promises', 'net', 'util'],
  fcqemu: ['child_process', 'events', 'fs', 'fs/promises', 'net', 'os', 'path', 'stream', 'timers/promises'],
};

const { program, name } = findProgram(process.argv0, process.execPath);
setProcessName(name);
for (const module of MODULES[program]) process.getBuiltinModule(`node:${module}`);
// their classes are loaded at the first use, which every command makes; fcqemu has streams of its own
if (program === 'banger') void [process.stdout, process.stderr];
for (const flag of V8_FLAGS) setFlagsFromString(flag);
runAsset(program);
