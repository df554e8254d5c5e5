/** The corpus: packets that broke DNS servers somewhere, or would; one per file, as commented hexadecimal. */
import { readdirSync, readFileSync } from 'node:fs';
import { QUERY_RESULTS, type QueryResult } from '../../../src/dns/answer.ts';

export interface Specimen {
  name: string;
  bytes: Buffer;
  expected: QueryResult;
}

/**
 * A file has comment lines ("#"), one line "expect RESULT" and lines of hexadecimal; "62*41" repeats a byte,
 * its count being decimal.
 */
export function readCorpus(): Specimen[] {
  const directory = new URL('../corpus/', import.meta.url);
  return readdirSync(directory)
    .sort()
    .map((file) => {
      const lines = readFileSync(new URL(file, directory), 'utf8').split('\n');
      const expected = lines.find((line) => line.startsWith('expect '))?.slice('expect '.length);
      const known = QUERY_RESULTS.find((result) => result === expected);
      if (known === undefined) throw new Error(`${file} expects "${expected}"`);
      const words = lines.filter((line) => !/^(#|expect )/.test(line)).flatMap((line) => line.split(/\s+/));
      const hex = words.map((word) => word.replace(/^(\d+)\*(\w\w)$/, (_, count, byte) => byte.repeat(Number(count))));
      return { name: file.replace(/\.hex$/, ''), bytes: Buffer.from(hex.join(''), 'hex'), expected: known };
    });
}
