/** Who banger is in packages: its version, the time of its sources, its maintainer. */
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import manifest from '../../package.json' with { type: 'json' };

const ROOT = join(import.meta.dirname, '../..');

export const MAINTAINER = `${process.env.DEBFULLNAME ?? 'banger maintainers'} <${process.env.DEBEMAIL ?? 'banger@packages.invalid'}>`;

/** The version of package.json, which is the only place that has it. */
export const PACKAGE_VERSION: string = manifest.version;
export const DESCRIPTION: string = manifest.description;

/**
 * When the sources are from: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the last commit, else the manifest. Files of a
 * package carry this time, so that the same sources make the same package.
 */
export function sourceDate(): Date {
  const given = process.env.SOURCE_DATE_EPOCH;
  if (given !== undefined && /^\d+$/.test(given)) return new Date(Number(given) * 1000);
  try {
    const seconds = execFileSync('git', ['-C', ROOT, 'log', '-1', '--format=%ct'], { encoding: 'utf8', stdio: 'pipe' });
    return new Date(Number(seconds) * 1000);
  } catch {
    return statSync(join(ROOT, 'package.json')).mtime;
  }
}
