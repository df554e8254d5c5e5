/**
 * What keeps guests apart from each other and from the host, beyond what banger itself does: Firecracker's checklist for
 * hosts in production (docs/prod-host-setup.md there). None of it stops a VM.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TUN_DEVICE, usersMayOpen } from '../../system/confinement.ts';
import { type Check, notApplicable, ok, warning } from '../check.ts';
import type { PreflightContext } from '../context.ts';
import { asRoot } from '../fixes.ts';

export const usersCheck: Check<PreflightContext> = {
  id: 'isolation.users',
  title: 'users of VMs',
  async run({ uid, vmUsers, config, tunDevice = TUN_DEVICE }) {
    const lookedFor = 'an unprivileged user for each VM';
    if (uid !== 0) return notApplicable(lookedFor, 'This user is not root, so all VMs run as this user.');
    const range = vmUsers?.range;
    if (!range) {
      const isWanted = config.privilege.vmUsers !== 'none';
      const why = isWanted ? 'the user ids do not exist in this container' : 'privilege.vm_users is "none"';
      const fix = isWanted
        ? 'Give it a range that does: privilege.vm_users = "FIRST-LAST"'
        : 'Set privilege.vm_users = "auto"';
      return warning(lookedFor, `VMs run as root: ${why}.`, fix);
    }
    const users = `VMs run as users ${range.first + 1} to ${range.last}`;
    if (await usersMayOpen(tunDevice)) return ok(lookedFor, users);
    return ok(lookedFor, `${users}; the next start lets them open ${tunDevice}, as udev does`);
  },
};

const cgroupCheck: Check<PreflightContext> = {
  id: 'isolation.cgroup',
  title: 'control groups',
  async run({ uid, cgroups }) {
    const lookedFor = 'cgroup v2 with limits of memory and tasks';
    if (uid !== 0) return notApplicable(lookedFor, 'Only a daemon of root gives each VM a control group.');
    if (cgroups?.directory !== undefined) return ok(lookedFor, `each VM gets one in ${cgroups.directory}`);
    const detail = `VMs have no limits of memory and processes of their own: ${cgroups?.why ?? 'not looked for'}.`;
    return warning(lookedFor, detail, 'Boot with cgroup v2, with systemd: systemd.unified_cgroup_hierarchy=1');
  },
};

const threadsCheck: Check<PreflightContext> = {
  id: 'isolation.smt',
  title: 'threads of a core',
  async run(context) {
    const path = '/sys/devices/system/cpu/smt/active';
    const active = await read(context, path);
    if (active === undefined) return notApplicable(path, 'This kernel does not tell.');
    if (active.trim() !== '1') return ok(path, 'no two guests run on one core at the same time');
    const detail = 'Two guests may run on the threads of one core (SMT) and learn from each other by its caches.';
    const fix = asRoot('sh -c "echo off > /sys/devices/system/cpu/smt/control"', context.uid);
    return warning(
      path,
      detail,
      `${fix}   and at each boot: nosmt on the kernel command line. Where all guests are yours, leave it.`,
    );
  },
};

const mergingCheck: Check<PreflightContext> = {
  id: 'isolation.ksm',
  title: 'shared pages',
  async run(context) {
    const path = '/sys/kernel/mm/ksm/run';
    const run = await read(context, path);
    if (run === undefined) return notApplicable(path, 'This kernel has no KSM.');
    if (run.trim() !== '1') return ok(path, 'guests with the same content have pages of their own');
    const detail = 'Pages with the same content are merged (KSM): a guest can find out what others have in memory.';
    return warning(path, detail, asRoot(`sh -c "echo 2 > ${path}"`, context.uid));
  },
};

const swapCheck: Check<PreflightContext> = {
  id: 'isolation.swap',
  title: 'swap',
  async run(context) {
    const path = '/proc/swaps';
    const devices = ((await read(context, path)) ?? '')
      .split('\n')
      .slice(1)
      .flatMap((line) => line.split(/\s+/, 1)[0] || []);
    const onDisk = devices.filter((device) => !device.startsWith('/dev/zram'));
    if (onDisk.length === 0) return ok(path, 'memory of guests is not written to a disk');
    const detail = `Memory of guests may be written to ${onDisk.join(', ')} and stay there.`;
    return warning(path, detail, `${asRoot('swapoff -a', context.uid)}   or encrypt it.`);
  },
};

const mitigationsCheck: Check<PreflightContext> = {
  id: 'isolation.cpu',
  title: 'processor faults',
  async run(context) {
    const directory = '/sys/devices/system/cpu/vulnerabilities';
    const names = await readdir(join(context.hostRoot ?? '/', directory)).catch(() => []);
    if (names.length === 0) return notApplicable(directory, 'This kernel does not tell.');
    const open: string[] = [];
    for (const name of names.sort()) {
      if (/^Vulnerable/.test((await read(context, join(directory, name))) ?? '')) open.push(name);
    }
    if (open.length === 0) return ok(directory, 'none is known, or all are worked around');
    const detail = `A guest may read memory of others by what is not worked around: ${open.join(', ')}.`;
    return warning(directory, detail, `Update the kernel and the microcode; details: grep . ${directory}/*`);
  },
};

/** In the order of telling. */
export const isolationChecks: readonly Check<PreflightContext>[] = [
  usersCheck,
  cgroupCheck,
  threadsCheck,
  mergingCheck,
  swapCheck,
  mitigationsCheck,
];

async function read({ hostRoot = '/' }: PreflightContext, path: string): Promise<string | undefined> {
  try {
    return await readFile(join(hostRoot, path), 'utf8');
  } catch {
    return undefined;
  }
}
