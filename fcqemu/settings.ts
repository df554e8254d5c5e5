/** fcqemu's own settings: environment variables, because the command line is Firecracker's. */
import { homedir } from 'node:os';

export type AcceleratorChoice = 'kvm' | 'tcg' | 'auto';

export interface Settings {
  /** `FCQEMU_ACCEL`; auto tries KVM with the given kernel first */
  accelerator: AcceleratorChoice;
  /** `FCQEMU_QEMU`; looked up in PATH when it has no slash */
  qemu: string;
  /** where verdicts about KVM are kept */
  cacheDir: string;
  /** environment of QEMU */
  env: NodeJS.ProcessEnv;
}

/** @throws Error when a variable has a value that means nothing */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  const accelerator = env.FCQEMU_ACCEL ?? 'auto';
  if (accelerator !== 'kvm' && accelerator !== 'tcg' && accelerator !== 'auto') {
    throw new Error(`FCQEMU_ACCEL is "${accelerator}"; it must be kvm, tcg or auto.`);
  }
  return {
    accelerator,
    qemu: env.FCQEMU_QEMU || 'qemu-system-x86_64',
    cacheDir: `${env.XDG_CACHE_HOME || `${env.HOME || ownHome()}/.cache`}/fcqemu`,
    env,
  };
}

/** Never below /tmp, where another user may have made the directory; without a home nothing is kept. */
function ownHome(): string {
  try {
    return homedir();
  } catch {
    return '/nonexistent';
  }
}
