#!/usr/bin/env node
/** fcqemu: the Firecracker API in front of QEMU. */
import { main } from '../fcqemu/main.ts';

await main(process.argv.slice(2), process.env);
