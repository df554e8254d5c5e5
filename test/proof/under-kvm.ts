/** What the files of the short form share: where they may run, how much a test may take there, and what runs a guest. */
import assert from 'node:assert/strict';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { hostSkip } from '../support/host.ts';
import { paced } from '../support/pace.ts';

export const LIMIT = { timeout: paced(240_000) };

/** A guest that needs as little as any. */
export const SMALL = ['--memory', '192M', '--work-disk', '64M'];

/** The rig has seen to it that guests run under KVM; elsewhere a device that opens says nothing. */
export function kvmSkip(...programs: string[]): string | false {
  return (
    hostSkip(...programs) ||
    (!process.env.BANGER_PROOF && 'nobody has looked whether KVM works here: it runs in the rig of make proof')
  );
}

/** Whether a VMM, or what it has started, has a VM of KVM: by open files. */
export async function runsUnderKvm(vmm: number | null): Promise<boolean> {
  assert.ok(vmm, 'there is no VMM');
  const children = (await readFile(`/proc/${vmm}/task/${vmm}/children`, 'latin1')).split(' ').filter(Boolean);
  for (const pid of [String(vmm), ...children]) {
    for (const fd of await readdir(`/proc/${pid}/fd`)) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => ''); // closed meanwhile
      if (target === 'anon_inode:kvm-vm') return true;
    }
  }
  return false;
}
