#!/usr/bin/env node
/** fcqemu: the Firecracker API in front of QEMU. */
import { main } from '../fcqemu/main.ts';
import { environmentOfPrograms } from './environment.ts';
import { setProcessName } from './process-name.ts';

// the executable is called what it was started as; from source that would be Node
if (import.meta.filename !== undefined) setProcessName('fcqemu');
// the original never says anything of its own on standard error, and neither shall Node: fcqemu uses an experiment
process.removeAllListeners('warning');
void main(process.argv.slice(2), environmentOfPrograms(process.env));
