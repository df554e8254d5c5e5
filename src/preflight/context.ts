/** What checks work with: configuration, machine, and what the VM in question would boot from. */

import type { Config, VmConfig } from '../config/schema.ts';
import type { VmUsers } from '../core/vm-users.ts';
import type { BangerError } from '../errors.ts';
import type { CgroupHome } from '../system/cgroup.ts';
import type { HostFacts } from '../system/host-facts.ts';
import type { Rights } from '../system/privilege.ts';
import type { Argv, Runner } from '../system/runner.ts';
import type { Lately } from './lately.ts';

/** The files a VM boots from, all absolute. */
export interface BootFiles {
  /** name of the image or bundle */
  name: string;
  /** id of the image; absent for a bundle */
  imageId?: string;
  kernel: string;
  initrd: string | undefined;
  rootfs: string;
  defaults: VmConfig;
}

export interface PreflightContext {
  config: Config;
  /** environment programs are looked up in; see `withAdministratorPath` */
  env: NodeJS.ProcessEnv;
  /** effective user id */
  uid: number;
  facts: HostFacts;
  runner: Runner;
  rights: Rights;
  /** what to boot from, or why there is nothing */
  boot: BootFiles | BangerError;
  /** the one beside the banger executable, for `programs.fcqemu = "auto"` */
  fcqemu: Argv;
  /** address pool in use, CIDR; undefined when none is decided yet */
  pool: string | undefined;
  /** process that has taken the pool instead of this one; none where it is not asked */
  poolHolder?: () => Promise<PoolHolder | undefined>;
  /** devices and ranges whose routes are this banger's, as its ledger has them */
  ownLinks?: () => readonly string[];
  /** templates that are kept, with why no VM can start from one any more; none where they are not asked for */
  templates?: () => Promise<readonly KeptTemplate[]>;
  /** nftables table of this banger */
  table: string;
  /** file of the private key banger logs in with */
  clientKeyFile: string;
  needs: Needs;
  /** what earlier starts have found; without it everything is looked at */
  lately?: Lately;
  /** tests KVM again where the remembered verdict is "no" */
  retestKvm?: boolean;
  /** looks at what costs time too: versions, every single sudo rule */
  thorough?: boolean;
  /** device that virtualizes; `/dev/kvm` except in tests */
  kvmDevice?: string;
  /** users VMs run as; none where it is not told */
  vmUsers?: VmUsers;
  /** where VMs get control groups */
  cgroups?: CgroupHome;
  /** directory below which /proc and /sys are; `/` except in tests */
  hostRoot?: string;
  /** device that makes taps; `/dev/net/tun` except in tests */
  tunDevice?: string;
  /** whether the kernel has IPv6; looked up except in tests */
  hasIpv6?: boolean;
}

export interface KeptTemplate {
  /** image or bundle that it was made of */
  image: string;
  bytes: number;
  /** each a clause; empty for one that VMs can start from */
  misfits: readonly string[];
}

/** Another process that has taken the name of a pool; who it is may not be known. */
export interface PoolHolder {
  pid?: number;
  uid?: number;
  /** whether it is known to belong to neither root nor this user */
  stranger: boolean;
}

/** What the action in question takes of the host; 0 when it is not known. */
export interface Needs {
  vcpus: number;
  memoryMib: number;
  /** in `bytes`, on the file system of the store */
  diskBytes: number;
}

export function hasBoot<T extends Pick<PreflightContext, 'boot'>>(context: T): context is T & { boot: BootFiles } {
  return !(context.boot instanceof Error);
}
