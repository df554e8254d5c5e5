/** Makes what lets VMs of host tests begin quickly, see warm-start.ts. */
import { existsSync } from 'node:fs';
import { messageOf } from '../../src/errors.ts';
import { DEV, hostSkip, TestHost } from './host.ts';
import { keepWarmStart, warmStartOf } from './warm-start.ts';

/** Shapes that most VMs of tests have or can grow from; others boot. */
const MEMORY = '256M';
const WORK_DISKS = ['64M', 'none'];

/**
 * Makes it where TestHost looks for it, unless it is there, or no VM can run here. Without it VMs of tests boot, so a failure is
 * only told: tests of templates say more about it.
 */
export async function makeWarmStart(bundle: string): Promise<void> {
  process.env.BANGER_TEST_BUNDLE = bundle;
  if (hostSkip('debugfs') !== false) return;
  await make().catch((error) => console.error(`no templates for tests, their VMs boot: ${messageOf(error)}`));
}

async function make(): Promise<void> {
  await using host = await TestHost.create({ lean: true });
  if (existsSync(warmStartOf(host.bundle, DEV))) return;
  for (const size of WORK_DISKS) await host.ok('image', 'warm', '--memory', MEMORY, '--work-disk', size);
  await host.ok('daemon', 'stop');
  await keepWarmStart(host.home, host.bundle, DEV);
}
