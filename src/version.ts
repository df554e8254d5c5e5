/** The version of this banger; package.json has it, and the bundle carries it along. */
import manifest from '../package.json' with { type: 'json' };

export const VERSION: string = manifest.version;

/** The newest release of Firecracker that this banger was tried with. */
export const FIRECRACKER_RELEASE = '1.16.1';
