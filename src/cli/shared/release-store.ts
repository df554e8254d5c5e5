/** Where releases of Firecracker are kept for this user, and the one that comes before them all. */
import { loadConfig } from '../../config/load.ts';
import { installsDirectory, OWN_FIRECRACKER } from '../../config/paths.ts';
import { findProgram, kernelArch, withAdministratorPath } from '../../system/host-facts.ts';
import { createRunner } from '../../system/runner.ts';
import type { Context } from '../context.ts';
import type { ReleaseStore } from './vmm-releases.ts';

export interface UserReleaseStore extends ReleaseStore {
  /** path of the Firecracker that settings or PATH name, which comes before what banger installed */
  configured(): Promise<string | undefined>;
  /** @returns undefined when the program does not say its version */
  versionOf(program: string): Promise<string | undefined>;
}

export async function releaseStore({ terminal, warn }: Context): Promise<UserReleaseStore> {
  const env = withAdministratorPath(terminal.env, terminal.uid);
  const { config, warnings } = await loadConfig({ env: terminal.env, uid: terminal.uid });
  for (const warning of warnings) warn(warning);
  const runner = createRunner(env);
  const { firecracker } = config.programs;
  return {
    directory: installsDirectory(config.paths),
    arch: kernelArch(process.arch),
    releaseUrl: config.releases.firecracker,
    runner,
    programs: config.programs,
    async configured() {
      const found = await findProgram(firecracker, env);
      if (found.found) return found.path;
      return firecracker === OWN_FIRECRACKER ? undefined : firecracker;
    },
    async versionOf(program) {
      const said = await runner.run([program, '--version'], { timeoutMs: 10_000 }).catch(() => undefined);
      return /\bv?(\d+\.\d+\.\d+[\w.+-]*)/.exec(said?.stdout ?? '')?.[1];
    },
  };
}
