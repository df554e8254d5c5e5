/** Words that belong to another program: `banger exec NAME [--] WORDS...`. */

/** Without the `--` that may stand between the VM's name and them. */
export function withoutSeparator(words: readonly string[]): string[] {
  return words[0] === '--' ? words.slice(1) : [...words];
}
