/** Which Linux distribution this is; format: os-release(5). */
import { readFile } from 'node:fs/promises';
import { systemCode } from '../errors.ts';

/** Distributions that share package names and the program that installs them. */
export type DistributionFamily = 'debian' | 'fedora' | 'arch' | 'alpine' | 'suse' | 'unknown';

export interface Distribution {
  family: DistributionFamily;
  /** `ID`, e.g. `ubuntu`; `linux` when nothing says */
  id: string;
  /** for people, e.g. `Debian GNU/Linux 12 (bookworm)` */
  name: string;
  /** `VERSION_ID`; rolling releases have none */
  version: string | undefined;
}

/** The second is where the first usually points; minimal systems have only that one. */
const FILES = ['/etc/os-release', '/usr/lib/os-release'];

/** By `ID` and, for derivatives, by the entries of `ID_LIKE`. */
const FAMILIES: Record<string, DistributionFamily> = {
  debian: 'debian',
  ubuntu: 'debian',
  fedora: 'fedora',
  rhel: 'fedora',
  centos: 'fedora',
  arch: 'arch',
  archlinux: 'arch',
  alpine: 'alpine',
  suse: 'suse',
  opensuse: 'suse',
  sles: 'suse',
};

/** The distribution of the first file that exists; `unknown` where there is none. */
export async function readDistribution(files: readonly string[] = FILES): Promise<Distribution> {
  for (const file of files) {
    try {
      return parseOsRelease(await readFile(file, 'utf8'));
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
  }
  return parseOsRelease('');
}

export function parseOsRelease(text: string): Distribution {
  const fields = new Map<string, string>();
  for (const [, name = '', value = ''] of text.matchAll(/^([A-Z_0-9]+)=(.*)$/gm)) fields.set(name, unquote(value));
  const id = fields.get('ID') ?? 'linux';
  const related = [id, ...(fields.get('ID_LIKE') ?? '').split(/\s+/)];
  // openSUSE has one ID per product: opensuse-leap, opensuse-tumbleweed, …
  const names = related.flatMap((name) => [name, name.split('-', 1)[0] ?? '']);
  return {
    family:
      names
        .map((name) => (Object.hasOwn(FAMILIES, name) ? FAMILIES[name] : undefined))
        .find((family) => family !== undefined) ?? 'unknown',
    id,
    name: fields.get('PRETTY_NAME') ?? fields.get('NAME') ?? 'Linux',
    version: fields.get('VERSION_ID'),
  };
}

/** Values are quoted as in a shell, without expansion. */
function unquote(value: string): string {
  const trimmed = value.trim();
  const quoted = /^(["'])(.*)\1$/.exec(trimmed)?.[2];
  return (quoted ?? trimmed).replace(/\\(["'\\$`])/g, '$1');
}
