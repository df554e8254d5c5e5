/** The one string SSH takes, made from an argument list: the guest's shell must see exactly these words. */

export interface GuestCommand {
  argv: readonly string[];
  env?: Readonly<Record<string, string>>;
  cwd?: string;
}

/** POSIX sh; survives every byte but NUL. */
export function shellCommand({ argv, env = {}, cwd }: GuestCommand): string {
  const assignments = Object.entries(env).map(([key, value]) => `${key}=${quote(value)}`);
  const words = [...(assignments.length > 0 ? ['env', ...assignments] : []), ...argv.map(quote)].join(' ');
  return cwd === undefined ? `exec ${words}` : `cd -- ${quote(cwd)} && exec ${words}`;
}

export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
