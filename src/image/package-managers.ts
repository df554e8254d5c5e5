/** Package managers of guests, chosen by os-release: what each is told, and how its list of packages is read. */
import { BangerError } from '../errors.ts';
import type { Distribution } from '../system/os-release.ts';

export interface PackageManager {
  name: 'apt' | 'apk' | 'dnf' | 'pacman' | 'zypper';
  /** shell commands, in order, that bring the package lists up to date */
  refresh: string[];
  /** shell command that installs packages without asking */
  install(packages: readonly string[]): string;
  /** shell command that lists what is installed, a line each */
  list: string;
  /** `NAME VERSION ARCH` of one line; undefined for a line that is no package */
  parse(line: string): string | undefined;
  /** shell patterns of lists and caches */
  caches: readonly string[];
  /** shell command that removes what the patterns leave, where the manager has one */
  clean?: string;
}

/** Set for every package manager: nothing may ask, and services are not started while an image is built. */
export const PACKAGE_ENV: Readonly<Record<string, string>> = {
  DEBIAN_FRONTEND: 'noninteractive',
  DEBCONF_NONINTERACTIVE_SEEN: 'true',
  SYSTEMD_OFFLINE: '1',
  LC_ALL: 'C.UTF-8',
};

/** The disk is thrown away when anything goes wrong, so nothing needs to be synced for each file. */
export const DPKG_OPTIONS = ['--force-unsafe-io', '--force-confdef', '--force-confold'];

const APT_OPTIONS = [
  '-q',
  '-o Acquire::Languages=none',
  '-o Acquire::Retries=2',
  '-o Dpkg::Use-Pty=0',
  ...DPKG_OPTIONS.map((option) => `-o Dpkg::Options::=${option}`),
].join(' ');

const columns = (line: string): string | undefined => (/^\S+ \S+ \S+$/.test(line) ? line : undefined);

const RPM_LIST = "rpm -qa --queryformat '%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\\n'";

/** Epoch 0 is what a package without one has, and nobody writes it. */
const rpmLine = (line: string): string | undefined => columns(line.replace(/ 0:/, ' '));

const MANAGERS: Record<PackageManager['name'], PackageManager> = {
  apt: {
    name: 'apt',
    refresh: [`apt-get ${APT_OPTIONS} -o APT::Update::Error-Mode=any update`],
    install: (packages) => `apt-get ${APT_OPTIONS} -y --no-install-recommends install ${packages.join(' ')}`,
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
    list: "dpkg-query -W -f='${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\\n'",
    parse: (line) => /^(\S+ \S+ \S+) .i/.exec(line)?.[1],
    caches: [
      ...['/var/lib/apt/lists/*', '/var/cache/apt/archives/*.deb', '/var/cache/apt/*.bin'],
      ...['/var/cache/debconf/*-old', '/var/lib/dpkg/*-old', '/var/cache/ldconfig/aux-cache'],
    ],
  },
  apk: {
    name: 'apk',
    refresh: ['apk update'],
    install: (packages) => `apk add --no-progress ${packages.join(' ')}`,
    list: 'apk list --installed',
    // busybox-1.36.1-r5 x86_64 {busybox} (GPL-2.0-only) [installed]
    parse(line) {
      const [whole = '', arch, origin] = line.split(' ', 3);
      const version = /(?<=[^-])-(\d[^-]*-r\d{1,9})$/.exec(whole);
      if (!version || origin === undefined) return undefined;
      return `${whole.slice(0, version.index)} ${version[1]} ${arch}`;
    },
    caches: ['/var/cache/apk/*'],
  },
  dnf: {
    name: 'dnf',
    refresh: ['dnf -q -y makecache'],
    install: (packages) =>
      `dnf -y --setopt=install_weak_deps=False install ${packages.map((name) => name.replace('=', '-')).join(' ')}`,
    list: RPM_LIST,
    parse: rpmLine,
    caches: ['/var/cache/dnf', '/var/cache/libdnf5'],
    clean: 'dnf clean all',
  },
  pacman: {
    name: 'pacman',
    // lists without the packages they belong to are a partial upgrade, which Arch does not support
    refresh: ['pacman -Syu --noconfirm --noprogressbar'],
    install: (packages) => `pacman -S --needed --noconfirm --noprogressbar ${packages.join(' ')}`,
    list: "pacman -Qi | sed -n 's/^Name *: //p; s/^Version *: //p; s/^Architecture *: //p' | paste -d ' ' - - -",
    parse: columns,
    caches: ['/var/cache/pacman/pkg/*', '/var/lib/pacman/sync/*'],
  },
  zypper: {
    name: 'zypper',
    refresh: ['zypper --non-interactive refresh'],
    install: (packages) => `zypper --non-interactive install --no-recommends ${packages.join(' ')}`,
    list: RPM_LIST,
    parse: rpmLine,
    caches: ['/var/cache/zypp/*'],
    clean: 'zypper clean --all',
  },
};

const BY_FAMILY = { debian: 'apt', alpine: 'apk', fedora: 'dnf', arch: 'pacman', suse: 'zypper' } as const;

/** @throws BangerError `invalid_input` for a distribution whose package manager banger does not know */
export function packageManagerOf({ family, name }: Distribution): PackageManager {
  if (family !== 'unknown') return MANAGERS[BY_FAMILY[family]];
  throw new BangerError('invalid_input', `banger knows no package manager of ${name}.`, {
    hint: 'Known are apt, apk, dnf, pacman and zypper, by /etc/os-release of the base.',
  });
}

/** The sidecar of an image: one `name version arch` a line, sorted by code points. */
export function packageManifest(manager: PackageManager, output: string): string {
  const lines = output.split('\n').flatMap((line) => manager.parse(line) ?? []);
  return lines.length === 0 ? '' : `${lines.sort().join('\n')}\n`;
}
