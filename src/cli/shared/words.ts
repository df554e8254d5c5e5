/** Words that are given as one argument. */
import { BangerError } from '../../errors.ts';

/**
 * A JSON array, or words between blanks, with quotes as a shell has them; nothing is replaced in them.
 * @throws BangerError `invalid_input`
 */
export function splitWords(text: string): string[] {
  if (text.trimStart().startsWith('[')) {
    try {
      const value: unknown = JSON.parse(text);
      if (Array.isArray(value) && value.every((word) => typeof word === 'string')) return value;
    } catch {
      // said below
    }
    throw new BangerError('invalid_input', `${text} is no JSON array of texts.`, {
      hint: 'For example: \'["nginx", "-g"]\'',
    });
  }
  const words: string[] = [];
  let word: string | undefined;
  let quote = '';
  for (let at = 0; at < text.length; at++) {
    const letter = text.charAt(at);
    if (quote !== '' && letter === quote) quote = '';
    else if (quote === "'") word += letter;
    else if (letter === '\\' && at + 1 < text.length) word = (word ?? '') + text.charAt(++at);
    else if (quote === '"') word += letter;
    else if (letter === "'" || letter === '"') {
      quote = letter;
      word ??= '';
    } else if (/\s/.test(letter)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? '') + letter;
  }
  if (quote !== '') {
    throw new BangerError('invalid_input', `In ${text} a ${quote} has no end.`, {
      hint: 'Close it, or put \\ before it.',
    });
  }
  return word === undefined ? words : [...words, word];
}

/** @throws BangerError `invalid_input` */
export function parseVariable(text: string): [string, string] {
  const [, name, value] = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(text) ?? [];
  if (name === undefined || value === undefined) {
    throw new BangerError('invalid_input', `--env: "${text}" sets no variable.`, {
      hint: 'Write it as --env NAME=value.',
    });
  }
  return [name, value];
}
