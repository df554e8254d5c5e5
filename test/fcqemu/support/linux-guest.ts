/** Boots the bundle's kernel with a script of the test's own. */
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { bundleSkipReason, TEST_INIT_ARGUMENT, testBundle, testInitrd } from './test-initrd.ts';
import { guestSkipReason, startVmm, type Vmm, type VmmOptions, waitFor } from './vmm-process.ts';

/** Emulated guests on a busy machine are slow. */
export const BOOT_MS = 60_000;

/** Why no Linux can be booted here; false when it can. */
export function linuxSkipReason(): string | false {
  return bundleSkipReason() ?? guestSkipReason() ?? false;
}

export interface GuestOptions extends VmmOptions {
  /** by their names in the guest's /fcqemu */
  programs?: Record<string, Buffer>;
}

/** A VMM whose boot source is set; `script` is what the guest does. */
export async function prepared(
  t: TestContext,
  script: string,
  { programs, ...options }: GuestOptions = {},
  bootArgs = '',
): Promise<Vmm> {
  const vmm = await startVmm(t, options);
  const bundle = testBundle() ?? '';
  await vmm.put('/boot-source', {
    kernel_image_path: join(bundle, 'vmlinux'),
    initrd_path: await vmm.file('initrd', testInitrd(bundle, script, programs)),
    boot_args: `console=ttyS0 quiet cryptomgr.notests reboot=k panic=1 ${TEST_INIT_ARGUMENT} ${bootArgs}`,
  });
  return vmm;
}

export const start = (vmm: Vmm): Promise<void> => vmm.put('/actions', { action_type: 'InstanceStart' });

/** Waits until the guest has written `text` to its console. */
export const said = (vmm: Vmm, text: string): Promise<void> =>
  waitFor(() => vmm.output().includes(text), `"${text}" on the console`, BOOT_MS);
