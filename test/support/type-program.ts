/** Programs of TypeScript for tests of types: their files are not on the disk, and only what matters is checked. */
import { join } from 'node:path'
import ts from 'typescript'

const common: ts.CompilerOptions = {
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2023,
  // Without it the types of browsers are read as well, which takes a second.
  lib: ['lib.es2023.d.ts'],
  strict: true,
  noEmit: true,
  skipLibCheck: false,
  types: ['node']
}

/** Declarations that were parsed once serve all programs of a process. */
const known = new Map<string, ts.SourceFile | undefined>()

/** @param sources  by their names in the folder; a package.json among them says what kind of modules they are */
export function typeProgram (folder: string, sources: Readonly<Record<string, string>>): ts.Program {
  const own = new Map(Object.entries(sources).map(([name, source]) => [join(folder, name), source]))
  const host = ts.createCompilerHost(common)
  const { getSourceFile, fileExists, readFile } = host
  // Where the search for @types/node begins.
  host.getCurrentDirectory = () => folder
  host.fileExists = name => own.has(name) || fileExists(name)
  host.readFile = name => own.get(name) ?? readFile(name)
  host.getSourceFile = (name, languageVersion) => {
    const source = own.get(name)
    if (source !== undefined) return ts.createSourceFile(name, source, languageVersion)
    const parsed = known.get(name) ?? getSourceFile(name, languageVersion)
    known.set(name, parsed)
    return parsed
  }
  return ts.createProgram([...own.keys()].filter(name => name.endsWith('.ts')), common, host)
}

/**
 * Most of the time would go into the types of Node.js and of Fastify, so these are not checked.
 *
 * @param sources  by their names in the folder; they are checked
 * @param checked  other files that are checked
 * @returns errors in the sources as `text of the line: message`, in other files as `file: message`
 */
export function typeErrors (
  folder: string, sources: Readonly<Record<string, string>>, checked: RegExp
): readonly string[] {
  const program = typeProgram(folder, sources)
  const own = new Map(Object.entries(sources).map(([name, source]) => [join(folder, name), source]))
  const others = program.getSourceFiles().filter(({ fileName }) => checked.test(fileName))
  if (others.length === 0) throw new Error(`no file is called ${String(checked)}`)
  const files = [...program.getSourceFiles().filter(({ fileName }) => own.has(fileName)), ...others]
  const errors = [
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...files.flatMap(file => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
  ]
  return errors.map(({ file, start, messageText }) => {
    const message = ts.flattenDiagnosticMessageText(messageText, '\n')
    const source = own.get(file?.fileName ?? '')
    if (source === undefined) return `${file?.fileName}: ${message}`
    const { line } = file!.getLineAndCharacterOfPosition(start!)
    return `${source.split('\n')[line]!.trim()}: ${message}`
  })
}
