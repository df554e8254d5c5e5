/**
 * Whether anything grows: many rounds of create, start, stop and delete, and what daemon and host had before and after.
 * Usage: BANGER_TEST_BUNDLE=DIR node bench/rounds.ts [ROUNDS]   (root; 200 rounds take half an hour where guests are emulated)
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestHost } from '../test/support/host.ts';
import { leanBundle } from '../test/support/lean-bundle.ts';

const ROUNDS = Number(process.argv[2] ?? 200);
/** The first rounds fill caches and compile code. */
const WARM_UP = Math.min(10, Math.ceil(ROUNDS / 5));

const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', join(import.meta.dirname, '../.dev'));
await using host = await TestHost.create({ env: { BANGER_BUNDLE_DEFAULT: bundle, BANGER_DNS_PORT: '42970' } });
await host.daemon();

for (let round = 1; round <= ROUNDS; round++) {
  const name = `round-${round}`;
  await host.ok('create', name);
  await host.ok('start', name);
  await host.vm(name); // from now on what is left of it is found
  await host.ok('stop', name);
  await host.ok('rm', '--now', name);
  if (round === WARM_UP || round === ROUNDS || round % 50 === 0) console.log(round, JSON.stringify(await figures()));
}

async function figures(): Promise<Record<string, number>> {
  // a daemon with nothing to do collects its garbage after 5 s
  await sleep(8000);
  const { pid } = await host.client.call('status', {});
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const files = await readdir(host.home, { recursive: true });
  return {
    daemonRssMib: Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024),
    daemonFiles: (await readdir(`/proc/${pid}/fd`)).length,
    daemonThreads: Number(/^Threads:\s+(\d+)/m.exec(status)?.[1]),
    // taps, rules, routes, processes, sockets, mounts, ledger entries and half-made files of this banger; others are not counted
    leftOnHost: (await host.leftovers({ daemonRuns: true })).length,
    files: files.length,
  };
}
