/** A VMM that is only a script: Firecracker's flags and socket, with the answers a test wants. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Argv } from '../../src/system/runner.ts';

/**
 * How it behaves after it has read its flags:
 * `ready` answers, `dies` says why and ends, `silent` never opens its socket, `deaf` opens it and never answers,
 * `starting` opens it late.
 */
export type FakeBehaviour = 'ready' | 'dies' | 'silent' | 'deaf' | 'starting';

const SCRIPT = `
const { appendFileSync } = require('node:fs');
const flag = (name) => process.argv[process.argv.indexOf(name) + 1];
const behaviour = process.argv[2];
appendFileSync(flag('--log-path'), 'Running a fake VMM\\n');
if (behaviour === 'dies') {
  console.error('cannot go on');
  appendFileSync(flag('--log-path'), 'RunWithApiError: no\\n');
  process.exit(148);
}
setTimeout(() => {}, 60_000);
const server = require('node:http').createServer((request, response) => {
  if (behaviour === 'deaf') return;
  response.end(JSON.stringify({ id: flag('--id'), state: 'Not started', vmm_version: '1', app_name: 'fake' }));
});
const listen = () => server.listen(flag('--api-sock'));
if (behaviour === 'starting') setTimeout(listen, 300);
else if (behaviour !== 'silent') listen();
`;

/** Writes the script into `dir`; returns the program to launch. */
export async function fakeVmm(dir: string, behaviour: FakeBehaviour): Promise<Argv> {
  const script = join(dir, 'fake-vmm.cjs');
  await writeFile(script, SCRIPT);
  return [process.execPath, script, behaviour];
}
