/**
 * The short form of the proof: VMs under a working KVM from creation to deletion, with as few boots as show it, because
 * where KVM is emulated each of them takes some ten seconds. Everything else is in the host tests, which `make proof` runs in
 * the same place. Each part has a banger of its own, so that a fault of the place costs one of them.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ImageBuilt } from '../../src/api/image-build.ts';
import type { DoctorReport } from '../../src/api/system.ts';
import { GIB } from '../../src/units.ts';
import { until } from '../support/host.ts';
import type { ProofVmm } from './outcome.ts';
import { INSIDE, type Rig } from './rig.ts';
import { RigBanger, type RigUser } from './rig-banger.ts';

/** A guest that needs as little as any. */
const SMALL = ['--memory', '192M', '--work-disk', '64M'];
const WEB = { name: 'web' };
/** The first guest under KVM may miss the time a self-test has; longer ones go on in the background then. */
const DOCTOR_MS = 120_000;

export interface Step {
  name: string;
  act: (banger: RigBanger) => Promise<void>;
}

export interface Part {
  name: string;
  user?: { groups: string[] };
  /** each goes on where the one before ended */
  steps: Step[];
}

export function shortParts(vmm: ProofVmm): Part[] {
  // QEMU is never run as root, so under fcqemu the group is the one way to KVM
  const groups = vmm === 'fcqemu' ? [['kvm']] : [[], ['kvm']];
  return [
    { name: 'a VM', steps: VM },
    { name: 'a machine', steps: KEPT },
    ...groups.map((of) => ({
      name: `a VM of an ordinary user through sudo${of.map((group) => ` and the group ${group}`).join('')}`,
      user: { groups: of },
      steps: OF_A_USER,
    })),
  ];
}

const VM: Step[] = [
  {
    name: 'runs, and runs commands',
    act: async (banger) => {
      await banger.ok('run', 'web', ...SMALL);
      assert.ok(await banger.runsUnderKvm(await banger.vm('web')), 'the VMM has no VM of KVM');
      const ran = await banger.run(['exec', 'web', '--', 'sh', '-c', 'cat; echo problem >&2; exit 7'], {
        input: 'a\nb',
      });
      assert.deepEqual([ran.status, ran.stdout, ran.stderr], [7, 'a\nb', 'problem\n']);
    },
  },
  {
    name: 'gets larger disks while it runs',
    act: async (banger) => {
      const body = { workBytes: GIB, rootBytes: 5 * GIB, online: true };
      await banger.done(banger.client.call('resizeDisks', { params: WEB, body }));
      const script = 'df -B1 --output=size / /root | tail -n 2; echo kept > /root/note; sync';
      const [root = 0, work = 0] = (await banger.guest('web', script)).split('\n').map(Number);
      assert.ok(root > 4.6 * GIB && work > 0.9 * GIB, `root ${root}, work ${work}`);
    },
  },
  {
    name: 'comes back when its guest reboots',
    act: async (banger) => {
      await banger.done(banger.client.call('setVm', { params: WEB, body: { restartPolicy: 'on-failure' } }));
      const { pid } = await banger.vm('web');
      await banger.guest('web', '(sleep 1; kill -INT 1) > /dev/null 2>&1 &');
      await banger.runsAgain('web', pid);
    },
  },
  {
    name: 'comes back with what was on its disks after its VMM was killed',
    act: async (banger) => {
      const { pid } = await banger.vm('web');
      await banger.shell(`kill -KILL ${pid}`);
      await banger.runsAgain('web', pid);
      assert.equal(await banger.guest('web', 'cat /root/note'), 'kept');
    },
  },
  {
    name: 'is taken over by the next daemon, which stops it by Ctrl-Alt-Del',
    act: async (banger) => {
      const { pid } = await banger.vm('web');
      await banger.killDaemon();
      await banger.daemon();
      const adopted = await banger.vm('web');
      assert.deepEqual([adopted.state, adopted.pid], ['running', pid]);
      await banger.done(banger.client.call('stopVm', { params: WEB, body: {} }));
      assert.ok(await banger.keysPressed(adopted));
      assert.equal((await banger.vm('web')).state, 'stopped');
      await banger.ok('rm', '--force', '--now', 'web');
      await banger.assertQuiet();
    },
  },
];

const KEPT: Step[] = [
  {
    name: 'that was kept by an image build goes on, memory and all',
    act: async (banger) => {
      const build = async (last: string) => {
        const lines = ['echo first > /opt/mark', `echo ${last} >> /opt/mark`];
        const words = lines.flatMap((line) => ['--run', line]);
        const { steps } = JSON.parse(
          await banger.ok('image', 'build', '--name', 'kept', ...words, '--json'),
        ) as ImageBuilt;
        return steps.filter(({ cached }) => !cached).map(({ step }) => step)[0];
      };
      assert.equal(await build('one'), 'boot');
      assert.equal(await build('two'), 'revive', 'a snapshot of its memory was loaded');
      await banger.assertQuiet();
    },
  },
];

const OF_A_USER: Step[] = [
  {
    name: 'runs, and stops over SSH',
    act: async (banger) => {
      const rules = await banger.ok('doctor', '--sudoers');
      await banger.shell(
        `cat > ${RULES} << 'END'\n${rules}\nEND\nchmod 440 ${RULES} && visudo --check --quiet --file ${RULES}`,
      );
      await banger.ok('run', 'web', ...SMALL);
      const web = await banger.vm('web');
      assert.ok(await banger.runsUnderKvm(web), 'the VMM has no VM of KVM');
      const owner = await banger.shell(`stat -c %U /proc/${web.pid}`);
      // sudo gives it the group of /dev/kvm, and nothing of root's
      assert.equal(owner, USER);
      assert.equal(await banger.guest('web', 'hostname'), 'web');
      await banger.done(banger.client.call('stopVm', { params: WEB, body: {} }));
      assert.ok(!(await banger.keysPressed(web)), 'it was asked over SSH');
      await banger.assertQuiet();
    },
  },
];

const USER = 'somebody';
const RULES = `/etc/sudoers.d/${USER}`;

/**
 * Lets everybody there reach programs and kernels where they lie: a copy for each user would be translated anew. A Firecracker
 * that was carried in is found as one that is installed.
 */
export async function prepareRig(rig: Rig): Promise<void> {
  const found = `find ${INSIDE}/vmm -type f -exec ln -sf {} /usr/local/bin/ ';'`;
  await rig.shell(`chmod 755 ${INSIDE} && chmod -R a+rX ${INSIDE}/bundle ${INSIDE}/vmm && ${found}`, 60_000);
}

/** Makes a banger for a part, with a user of the rig where the part is one's. */
export async function openPart(rig: Rig, vmm: ProofVmm, part: Part): Promise<RigBanger> {
  const banger = await RigBanger.start(rig, vmm, await userOf(rig, part));
  try {
    if (!(await banger.hasVerdict())) await findKvm(banger);
    return banger;
  } catch (error) {
    await banger[Symbol.asyncDispose]();
    throw error;
  }
}

async function userOf(rig: Rig, { user }: Part): Promise<RigUser | undefined> {
  if (user === undefined) return undefined;
  const { groups } = user;
  const device = await rig.shell('stat -c "%a %G" /dev/kvm', 60_000);
  assert.equal(device.trim(), '660 kvm', 'the device is of a group');
  const as = `setpriv --reuid ${USER} --regid ${USER} --init-groups --`;
  await rig.shell(
    [
      `userdel ${USER} 2> /dev/null`,
      `useradd --no-create-home --home-dir / --groups '${groups.join(',')}' ${USER}`,
    ].join('; '),
    60_000,
  );
  return { name: USER, as };
}

/** Waits until banger says that guests run under KVM; everything else would prove nothing. */
async function findKvm(banger: RigBanger): Promise<void> {
  let found = '';
  await until(
    `guests run under KVM`,
    async () => {
      const { stdout, stderr } = await banger.run(['doctor', '--json', 'start']);
      found = stdout === '' ? stderr.trim() : ((JSON.parse(stdout) as DoctorReport).summary.vmm ?? 'nothing');
      if (found.includes(', KVM')) return true;
      await sleep(2000);
      return false;
    },
    DOCTOR_MS,
  ).catch((error) => assert.fail(`${error.message}: ${found}`));
  await banger.passVerdictOn();
}
