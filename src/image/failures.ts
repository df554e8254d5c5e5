/** Why a step failed, read from what the guest's programs said: the one line a person needs. */

/** Begins what a step says of an owner of files that the guest does not know. */
export const UNKNOWN_OWNER = 'banger: there is no';

/** What programs say of ENOSPC. */
export const DISK_FULL = 'No space left on device';

/** Patterns by what they mean, the most telling first; `$1` is the thing. */
const CAUSES: [RegExp, (thing: string) => string][] = [
  [
    new RegExp(`^${UNKNOWN_OWNER} (.+)$`, 'm'),
    (owner) =>
      `there is no ${owner} in the image when files are put in; run lines, which may make one, come later and can chown`,
  ],
  [
    /No space left on device|You don't have enough free space|ENOSPC|Disk quota exceeded/i,
    () => 'the disk is full: give the image more with size (or --size)',
  ],
  [
    /^tar: (.{1,1000}): Cannot open: (?:File exists|Is a directory)$/m,
    (path) => `/${path} is a directory in the image: a target that ends with / puts files into it`,
  ],
  [/^su: user (\S+) does not exist/m, (name) => `there is no user ${name} in the image`],
  [/Unable to locate package (\S+)/, (name) => `there is no package ${name}`],
  [/Couldn't find any package by (?:glob|regex) '(.{1,200}?)'/, (name) => `there is no package ${name}`],
  [
    /Package '?(\S{1,200}?)'? has no installation candidate/,
    (name) => `the package ${name} has no candidate for installation`,
  ],
  [/Version '(.{1,200}?)' for '(.{1,200}?)' was not found/, (version) => `there is no such version: ${version}`],
  [/(\S{1,200}) \(no such package\)/, (name) => `there is no package ${name}`],
  [
    /(?:Unable to find a match|No match for argument|target not found|No provider of|'(?=[^\s']{1,200}' not found in package names)):?\s{0,8}'?([^\s']+)/,
    (name) => `there is no package ${name}`,
  ],
  [
    /The repository '(.{1,200}?)' (?:does not have a Release file|no longer has a Release file|is not signed)/,
    (archive) => `there is no archive of packages that can be used at ${archive}`,
  ],
  [
    /Temporary failure (?:resolving|in name resolution)|Could not resolve(?: host)?|bad address/i,
    () => 'names do not resolve in the VM; look at the network of this host and at network.nameservers',
  ],
  [
    /Could not connect to|Unable to connect to|Connection timed out|Network is unreachable/i,
    () => 'the package archive cannot be reached from the VM',
  ],
  [
    /dpkg: error processing (?:package|archive) (\S+)/,
    (name) => `the package ${name} could not be installed or configured`,
  ],
  [/unmet dependencies/, () => 'packages depend on others that cannot be installed'],
  [
    /Unable to fetch some archives|Failed to fetch (\S+)/,
    (name) => `a package could not be downloaded${name ? `: ${name}` : ''}`,
  ],
];

/** The cause as the end of a sentence; undefined when nothing is recognised. */
export function causeOf(lines: readonly string[]): string | undefined {
  const text = lines.join('\n');
  for (const [pattern, say] of CAUSES) {
    const match = pattern.exec(text);
    if (match) return say(match[1] ?? '');
  }
  return undefined;
}
