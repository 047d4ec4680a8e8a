import { playPart } from './part.js'

playPart(3)
