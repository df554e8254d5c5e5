/** Lists of installed packages: read, written, and compared between two images. */

export interface InstalledPackage {
  name: string;
  version: string;
  arch: string;
}

/** A package that both have in another version or for another architecture. */
export interface ChangedPackage {
  name: string;
  before: Pick<InstalledPackage, 'version' | 'arch'>;
  after: Pick<InstalledPackage, 'version' | 'arch'>;
}

export interface PackageDiff {
  added: InstalledPackage[];
  removed: InstalledPackage[];
  changed: ChangedPackage[];
  /** packages that are the same in both */
  unchanged: number;
}

const LISTED = /^[ \t]*(\S+)[ \t]+(\S+)[ \t]+(\S+)[ \t\r]*$/gm;

/** Reads a list with one `name version arch` a line; lines of another form are left out. */
export function parsePackageList(text: string): InstalledPackage[] {
  return Array.from(text.matchAll(LISTED), ([, name = '', version = '', arch = '']) => ({ name, version, arch }));
}

/** What is read of a dpkg database. */
const DPKG_FIELDS: ReadonlySet<string> = new Set(['Package', 'Version', 'Architecture', 'Status']);

/** The list as it lies beside an image: one `name version arch` a line, sorted. */
export function formatPackageList(packages: readonly InstalledPackage[]): string {
  return [...packages]
    .sort(byNameAndArch)
    .map(({ name, version, arch }) => `${name} ${version} ${arch}\n`)
    .join('');
}

/**
 * The installed packages of a dpkg database (`/var/lib/dpkg/status`): stanzas of `Key: value` lines, continued by a
 * leading space. Removed packages whose configuration stayed are not installed.
 * @param options.all whether every package counts: files of `status.d` do not say that theirs is installed
 */
export function parseDpkgStatus(text: string, { all = false } = {}): InstalledPackage[] {
  const packages: InstalledPackage[] = [];
  const fields = new Map<string, string>();
  const end = () => {
    const name = fields.get('Package');
    const version = fields.get('Version');
    const arch = fields.get('Architecture');
    if ((all || fields.get('Status')?.endsWith(' installed')) && name && version && arch)
      packages.push({ name, version, arch });
    fields.clear();
  };
  for (const line of text.split('\n')) {
    if (line.trim() === '') {
      if (fields.size > 0) end();
      continue;
    }
    const colon = line.indexOf(':');
    const key = colon < 0 ? '' : line.slice(0, colon);
    if (DPKG_FIELDS.has(key) && !fields.has(key)) fields.set(key, line.slice(colon + 1).trim());
  }
  end();
  return packages;
}

/** The packages of an apk database (`/lib/apk/db/installed`): stanzas of `K:value` lines. */
export function parseApkInstalled(text: string): InstalledPackage[] {
  const packages: InstalledPackage[] = [];
  let [name, version, arch] = ['', '', ''];
  for (const line of `${text}\n\n`.split('\n')) {
    const value = line.slice(2).trim();
    if (line.startsWith('P:')) name = value;
    else if (line.startsWith('V:')) version = value;
    else if (line.startsWith('A:')) arch = value;
    else if (line === '') {
      if (name && version) packages.push({ name, version, arch: arch || 'noarch' });
      [name, version, arch] = ['', '', ''];
    }
  }
  return packages;
}

/** The package that a file `desc` of pacman's database describes; undefined when it describes none. */
export function parsePacmanDesc(text: string): InstalledPackage | undefined {
  const field = (key: string) => {
    const at = text.indexOf(`%${key}%\n`);
    return at < 0 ? '' : (text.slice(at + key.length + 3).split('\n', 1)[0] ?? '').trim();
  };
  const [name, version, arch] = [field('NAME'), field('VERSION'), field('ARCH')];
  return name && version && arch ? { name, version, arch } : undefined;
}

/**
 * What has to happen to `before` to get `after`, each part sorted by name. A package that is installed for several
 * architectures is compared with its own kind; where only the architecture differs, that is the change.
 */
export function diffPackages(before: readonly InstalledPackage[], after: readonly InstalledPackage[]): PackageDiff {
  const diff: PackageDiff = { added: [], removed: [], changed: [], unchanged: 0 };
  const then = Map.groupBy(before, ({ name }) => name);
  const now = Map.groupBy(after, ({ name }) => name);
  for (const name of new Set([...then.keys(), ...now.keys()])) {
    const old = [...(then.get(name) ?? [])].sort(byNameAndArch);
    const fresh = [...(now.get(name) ?? [])].sort(byNameAndArch);
    // the same architecture first, then whatever is left on both sides
    for (const one of [...old]) {
      const other = fresh.find(({ arch }) => arch === one.arch);
      if (other) compare(diff, take(old, one), take(fresh, other));
    }
    for (const one of [...old]) {
      const other = fresh[0];
      if (other) compare(diff, take(old, one), take(fresh, other));
    }
    diff.removed.push(...old);
    diff.added.push(...fresh);
  }
  diff.added.sort(byNameAndArch);
  diff.removed.sort(byNameAndArch);
  diff.changed.sort((a, b) => byText(a.name, b.name));
  return diff;
}

function compare(diff: PackageDiff, before: InstalledPackage, after: InstalledPackage): void {
  if (before.version === after.version && before.arch === after.arch) {
    diff.unchanged++;
    return;
  }
  diff.changed.push({
    name: before.name,
    before: { version: before.version, arch: before.arch },
    after: { version: after.version, arch: after.arch },
  });
}

function take<T>(list: T[], item: T): T {
  list.splice(list.indexOf(item), 1);
  return item;
}

function byNameAndArch(a: InstalledPackage, b: InstalledPackage): number {
  return byText(a.name, b.name) || byText(a.arch, b.arch) || byText(a.version, b.version);
}

/** By code units, as `LC_ALL=C sort` does. */
function byText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
