/** Data for the first boot of a VM: who takes it up there, where it is kept, and how far the guest is with it. */
import { readFile } from 'node:fs/promises';
import { parsePackageList } from '../../core/packages.ts';
import { parseUserDataState, type UserData, type UserDataState, userDataCommand } from '../../core/user-data.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { runThroughAgent } from '../../guest/run-script.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { imageFiles, vmFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { writeFileAtomic } from '../../system/files.ts';
import type { Host } from '../host.ts';
import { guestFiles } from '../images/guest-files.ts';

interface Given {
  userData?: string | undefined;
  metaData?: string | undefined;
}

/** A guest that is busy must not keep anybody waiting who only looks. */
const LOOK_LIMIT_MS = 5000;

/** @throws BangerError `conflict` for what an image without cloud-init cannot take up */
export async function decideUserData(
  host: Pick<Host, 'config' | 'system'>,
  { userData, metaData }: Given,
  boot: BootFiles,
  signal: AbortSignal,
): Promise<UserData | undefined> {
  if (userData === undefined) {
    if (metaData === undefined) return undefined;
    throw new BangerError('invalid_input', 'metaData is of no use without userData.', {
      hint: 'Give both: --user-data FILE --meta-data FILE',
    });
  }
  if (await hasCloudInit(host, boot, signal)) return { by: 'cloud-init', userData, metaData };
  if (userData.startsWith('#!')) return { by: 'script', userData };
  const what = /^#[\w-]{1,40}/.exec(userData)?.[0] ?? 'user data';
  throw new BangerError('conflict', `${boot.name} has no cloud-init, which ${what} is for.`, {
    hint: `Add it: banger image build --from ${boot.name} --name ${boot.name}-cloud --package cloud-init   then: --image ${boot.name}-cloud   A script (#!) runs without.`,
  });
}

/** By the list of packages, or by the file; where neither can be read, cloud images have it. */
async function hasCloudInit(
  host: Pick<Host, 'config' | 'system'>,
  { rootfs, imageId }: BootFiles,
  signal: AbortSignal,
): Promise<boolean> {
  if (imageId !== undefined) {
    const { packages } = imageFiles(host.config.paths.store, imageId);
    const text = await readFile(packages, 'utf8').catch(() => '');
    if (parsePackageList(text).some(({ name }) => name === 'cloud-init')) return true;
  }
  if ((await readRootVolume(rootfs)).kind !== 'ext4') return true;
  return (await guestFiles(host, rootfs, signal).list('/usr/bin')).includes('cloud-init');
}

/** Kept with the VM's files: it may hold passwords, and is in no record. */
export async function keepUserData(
  host: Pick<Host, 'config'>,
  vm: Pick<VmRecord, 'id'>,
  data: UserData,
): Promise<void> {
  await writeFileAtomic(vmFiles(host.config.paths.store, vm.id).userData, JSON.stringify(data), 0o600);
}

export async function readUserData(
  host: Pick<Host, 'config'>,
  vm: Pick<VmRecord, 'id'>,
): Promise<UserData | undefined> {
  try {
    return JSON.parse(await readFile(vmFiles(host.config.paths.store, vm.id).userData, 'utf8'));
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Undefined for VMs that were given none, and when the guest does not tell. */
export async function lookAtUserData(
  host: Pick<Host, 'config' | 'agents'>,
  vm: VmRecord,
): Promise<UserDataState | undefined> {
  const data = await readUserData(host, vm).catch(() => undefined);
  if (!data || vm.phase !== 'running' || vm.paused !== null) return undefined;
  const agent = await host.agents.get(vm);
  if (!agent?.hello.features.has('exec')) return undefined;
  try {
    const { output } = await runThroughAgent(agent, userDataCommand(data.by), LOOK_LIMIT_MS);
    return parseUserDataState(data.by, output);
  } catch {
    return undefined; // it ends at this moment
  }
}
