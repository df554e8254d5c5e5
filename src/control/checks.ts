/** What is asked before a VM is touched: the preflight checks of a command, and which VMM will run it. */
import { dirname, join } from 'node:path';
import type { DoctorCommand, DoctorReport } from '../api/system.ts';
import type { VmRecord } from '../core/vm.ts';
import { BangerError } from '../errors.ts';
import { type PreflightCommand, preflight } from '../preflight/commands.ts';
import type { BootFiles, Needs, PreflightContext } from '../preflight/context.ts';
import { runDoctor, sudoersFor } from '../preflight/doctor.ts';
import { createLately } from '../preflight/lately.ts';
import { chooseVmm, type VmmChoice } from '../preflight/vmm-choice.ts';
import { readHostFacts } from '../system/host-facts.ts';
import type { Argv } from '../system/runner.ts';

/** What stays the same for the life of the daemon. */
export type CheckBase = Pick<
  PreflightContext,
  | 'config'
  | 'env'
  | 'uid'
  | 'runner'
  | 'rights'
  | 'vmUsers'
  | 'cgroups'
  | 'pool'
  | 'poolHolder'
  | 'ownLinks'
  | 'templates'
  | 'table'
  | 'clientKeyFile'
> & {
  /** program and leading arguments of banger itself */
  self: Argv;
};

/** Tells what was found that stops nothing, with what helps. */
type Warn = (text: string) => void;

export interface Checks {
  /**
   * The checks of a creation.
   * @param diskBytes what the root disk takes of the store at once
   * @throws BangerError `preflight_failed` with every failure and its fix; so do all others here
   */
  beforeCreate(boot: BootFiles, diskBytes: number, warn: Warn): Promise<void>;
  /** The checks of a start. */
  beforeStart(boot: BootFiles, vm: Pick<VmRecord, 'vcpus' | 'memoryMib' | 'nat'>, warn: Warn): Promise<void>;
  /** The checks of an image build: those of a start, and what builds take besides. */
  beforeImageBuild(
    boot: BootFiles,
    vm: Pick<VmRecord, 'vcpus' | 'memoryMib' | 'nat'>,
    diskBytes: number,
    warn: Warn,
  ): Promise<void>;
  /** The checks of a bundle build. */
  beforeBundleBuild(warn: Warn): Promise<void>;
  /** The checks of growing disks. */
  beforeResize(diskBytes: number, warn: Warn): Promise<void>;
  /** The checks of giving a VM the way to the outside. */
  beforeNat(warn: Warn): Promise<void>;
  /** The checks of a login by the system's ssh, or of a command by the daemon's own connection. */
  beforeLogin(by: 'ssh' | 'exec'): Promise<void>;
  /** @throws BangerError `host_unprepared` when no VMM can run here */
  chooseVmm(boot: BootFiles): Promise<VmmChoice>;
  /** Every check, or those of one command; without boot files for the reason given. */
  doctor(boot: BootFiles | BangerError, command?: DoctorCommand): Promise<DoctorReport>;
  /** text of the sudoers rules that let the daemon's user do without root */
  sudoers(): Promise<string>;
}

/** The checks behind each word of `banger doctor COMMAND`: those the command itself would run. */
const DOCTOR_COMMANDS: Record<DoctorCommand, readonly PreflightCommand[]> = {
  create: ['vm-create'],
  start: ['vm-start', 'nat'],
  nat: ['nat'],
  ssh: ['ssh'],
  exec: ['exec'],
  build: ['vm-start', 'nat', 'image-build'],
  bundle: ['bundle-build'],
  resize: ['disk-resize'],
};

/** What a person must hear with the action it is about, since nothing is stopped by it. */
const TOLD_AT_ONCE = new Set(['nat.firewall', 'nat.names']);

const NO_NEEDS: Needs = { vcpus: 0, memoryMib: 0, diskBytes: 0 };

export function createChecks(base: CheckBase): Checks {
  const context = async (boot: BootFiles | BangerError, needs: Needs): Promise<PreflightContext> => ({
    ...base,
    facts: await readHostFacts(),
    boot,
    needs,
    fcqemu: besideBanger(base.self),
  });
  /** of checks before actions; who asks the doctor wants to know how it is now */
  const lately = createLately();
  /** Nothing that is asked here depends on a bundle. */
  const noBoot = new BangerError('not_found', 'not asked');
  const pass = async (
    boot: BootFiles | BangerError,
    needs: Partial<Needs>,
    warn: Warn,
    ...commands: [PreflightCommand, ...PreflightCommand[]]
  ) => {
    const asked = { ...(await context(boot, { ...NO_NEEDS, ...needs })), lately };
    const results = await preflight(asked, ...commands);
    for (const { id, title, status, detail, fix } of results) {
      if (status === 'warning' && TOLD_AT_ONCE.has(id)) warn(`${title}: ${detail}${fix ? `\n    fix: ${fix}` : ''}`);
    }
  };
  const starting = (nat: boolean): PreflightCommand[] => (nat ? ['nat'] : []);
  return {
    beforeCreate: (boot, diskBytes, warn) => pass(boot, { diskBytes }, warn, 'vm-create'),
    beforeStart: (boot, { vcpus, memoryMib, nat }, warn) =>
      pass(boot, { vcpus, memoryMib }, warn, 'vm-start', ...starting(nat)),
    beforeImageBuild: (boot, { vcpus, memoryMib, nat }, diskBytes, warn) =>
      pass(boot, { vcpus, memoryMib, diskBytes }, warn, 'image-build', 'vm-start', ...starting(nat)),
    beforeBundleBuild: (warn) => pass(noBoot, {}, warn, 'bundle-build'),
    beforeResize: (diskBytes, warn) => pass(noBoot, { diskBytes }, warn, 'disk-resize'),
    beforeNat: (warn) => pass(noBoot, {}, warn, 'nat'),
    beforeLogin: (by) => pass(noBoot, {}, () => {}, by),
    async chooseVmm(boot) {
      return await chooseVmm(await context(boot, NO_NEEDS));
    },
    async doctor(boot, command) {
      const commands = command === undefined ? [] : DOCTOR_COMMANDS[command];
      return await runDoctor(await context(boot, NO_NEEDS), ...commands);
    },
    async sudoers() {
      return await sudoersFor(await context(new BangerError('not_found', 'not asked'), NO_NEEDS));
    },
  };
}

/** fcqemu as it was installed with this banger: the executable next to it, or the source file next to ours. */
function besideBanger([program, script]: Argv): Argv {
  if (script === undefined) return [join(dirname(program), 'fcqemu')];
  return [program, join(dirname(script), 'fcqemu.ts')];
}
