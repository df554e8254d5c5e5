#!/usr/bin/env node
/** fcqemu: the Firecracker API in front of QEMU. */
import { main } from '../fcqemu/main.ts';

// the original never says anything of its own on standard error, and neither shall Node: fcqemu uses an experiment
process.removeAllListeners('warning');
await main(process.argv.slice(2), process.env);
